"""Large vocabularies on one image of 1333 x 800 pixels on a CPU: time and memory of names scored in chunks, and all at once.

Run ``python benchmarks/vocabulary.py`` with one OpenMP thread a process, on Linux. Weights and text embeddings are random; the
head has the paper's size, the backbone is a light one. It fails if the chunks need more than 256 MB or find something else.
"""

import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from benchmarks.processes import memory_bytes
from detclipv2.build import build_detector
from detclipv2.config import ModelConfig
from detclipv2.models.postprocess import MAX_PAIRS, postprocess

CANVAS_HW, IMAGE_HW = (800, 1344), (800, 1333)
NUM_NAMES = (1, 80, 1203, 13_000)
MAX_NAMES_WHOLE = 2000  # 13,000 names at one time take more than 7 GB
MAX_ADDED_MB = 256
WAYS = {"chunks": MAX_PAIRS, "whole": 2**40}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run in a process of its own."""

    network_s: float
    names_s: float  # from the network's output and the text embeddings to detections
    added_mb: float  # peak of the process while it did so, above what it had before
    scores: list[float]


@torch.inference_mode()
def measure(num_names: int, max_pairs: int) -> Measured:
    """Detect ``num_names`` random names in a random image."""
    torch.manual_seed(0)
    detector = build_detector(ModelConfig(backbone="lcnet_050", backbone_weights="random", drop_path=0.0)).eval()
    texts = F.normalize(torch.randn(num_names, 256), dim=-1)
    pixels = torch.rand(1, 3, *CANVAS_HW)
    started = time.perf_counter()
    output = detector(pixels, [IMAGE_HW])
    detected = time.perf_counter()
    before = memory_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    resumed = time.perf_counter()
    (found,) = postprocess(
        output, texts, logit_bias=detector.head.logit_bias, image_sizes_hw=[IMAGE_HW], max_pairs=max_pairs
    )
    return Measured(
        network_s=detected - started,
        names_s=time.perf_counter() - resumed,
        added_mb=(memory_bytes("VmHWM") - before) / 2**20,
        scores=found.scores.tolist(),
    )


def main() -> None:
    """Measure, print the table, and judge."""
    table = Table("names", "network, s", title=f"one image of {IMAGE_HW[1]} x {IMAGE_HW[0]}, fp32, CPU")
    for way in WAYS:
        table.add_column(f"{way}: s")
        table.add_column("peak, MB")
    failures = []
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as processes:
        for num_names in NUM_NAMES:
            ways = WAYS if num_names <= MAX_NAMES_WHOLE else {"chunks": MAX_PAIRS}
            runs = {way: processes.submit(measure, num_names, max_pairs).result() for way, max_pairs in ways.items()}
            cells = [cell for run in runs.values() for cell in (f"{run.names_s:.2f}", f"{run.added_mb:.0f}")]
            table.add_row(f"{num_names:,}", f"{runs['chunks'].network_s:.2f}", *cells, *["-"] * (4 - len(cells)))
            if runs["chunks"].added_mb > MAX_ADDED_MB:
                failures.append(f"{num_names} names took {runs['chunks'].added_mb:.0f} MB, more than {MAX_ADDED_MB}")
            if not np.allclose(runs["chunks"].scores, runs[list(runs)[-1]].scores, rtol=1e-6, atol=0):
                failures.append(f"{num_names} names: the chunks find something else than the whole matrix")
    Console().print(table)
    if failures:
        sys.exit("benchmarks/vocabulary.py: " + "; ".join(failures))


if __name__ == "__main__":
    main()
