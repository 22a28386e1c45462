"""Peak memory and gradients of a contrastive batch: in parts (gradient caching) against the whole in one graph.

``python benchmarks/gradient_caching.py`` runs one step's gradient each way, each in a process of its own, on the CUDA device
where there is one and otherwise on the CPU, and prints a table. Peak memory is what a step took beyond the model. The whole
goes through the network in parts as well, but keeps them all: libraries choose their convolutions by the size of a batch, and
the gradient of an untrained detector feels the rounding. Exits with status 1 if parts need more than ``MAX_SHARE`` of the
whole's memory, or if a gradient differs by more than ``MAX_DIFFERENCE``.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Column, Table
from torch.nn import functional as F

from benchmarks.processes import memory_bytes
from detclipv2.build import build_detector
from detclipv2.config import LossConfig, ModelConfig
from detclipv2.losses.hybrid import HybridObjective
from detclipv2.losses.pool import concept_pool
from detclipv2.structures import Batch
from detclipv2.training.accumulation import Accumulation

MAX_SHARE = 0.5
MAX_DIFFERENCE = 1e-4  # of the largest gradient of a parameter, in fp32
NEGLIGIBLE = 1e-6
WAYS = ("whole", "parts")


def make_objective(device: torch.device) -> HybridObjective:
    """A small backbone with DetCLIPv2's head, and a text encoder that is trained."""
    torch.manual_seed(0)
    model = ModelConfig(drop_path=0.0, region_norm="unit", text_training="trained")
    objective = HybridObjective(build_detector(model), LossConfig()).to(device).train()
    objective.detector.text_encoder.eval()  # without dropout: the two ways would draw differently
    return objective


def make_batch(num_pairs: int, image_size: int) -> Batch:
    """Images of coarse random colours, each with two phrases and a caption of its own."""
    colours = torch.rand(num_pairs, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    return Batch(
        supervision="image_text",
        keys=[f"pair-{number}" for number in range(num_pairs)],
        pixels=F.interpolate(colours, size=(image_size, image_size)),
        image_sizes_hw=[(image_size, image_size)] * num_pairs,
        boxes_xyxy=[torch.zeros(0, 4)] * num_pairs,
        labels=[torch.zeros(0, dtype=torch.long)] * num_pairs,
        concepts=[[f"thing {n}", f"a red thing {n}", f"a red thing {n} beside a thing"] for n in range(num_pairs)],
    )


def in_one_graph(objective: HybridObjective, batch: Batch, *, part_size: int) -> dict[str, torch.Tensor]:
    """Losses of the whole batch, of whose parts the network keeps all activations."""
    pool = concept_pool(batch)
    texts = pool.gathered(objective.detector.text_encoder(pool.mine))
    outputs = [objective.detector(part.pixels, part.image_sizes_hw) for part in batch.split(part_size)]
    joined = {
        name: torch.cat([getattr(output, name) for output in outputs])
        for name in ("embeddings", "box_deltas", "centerness", "valid")
    }
    output = replace(outputs[0], **joined)
    return objective.image_text_losses(objective.proposals(output, texts, pool), texts, pool)


def used_bytes(device: torch.device, *, peak: bool) -> int:
    """Memory of the tensors on a CUDA device, or of the process (Linux), now or at its peak."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) if peak else torch.cuda.memory_allocated(device)
    return memory_bytes("VmHWM" if peak else "VmRSS")


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    """One step's gradient; writes it, the peak and the seconds into ``folder``."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.allow_tf32 = False
    objective = make_objective(device)
    part_size = arguments.part_size

    def step(batch: Batch) -> dict[str, torch.Tensor]:
        if arguments.way == "parts":
            return Accumulation(objective, part_size=part_size, precision="fp32", seed=(0,)).backward(batch)
        losses = in_one_graph(objective, batch, part_size=part_size)
        torch.stack(list(losses.values())).sum().backward()
        return losses

    step(make_batch(2, arguments.image_size).to(device))  # libraries set up their buffers
    objective.zero_grad(set_to_none=False)  # so that the gradients are part of what was there before
    batch = make_batch(arguments.num_pairs, arguments.image_size).to(device)
    before, started = used_bytes(device, peak=False), time.perf_counter()
    losses = step(batch)
    loss = float(losses["contrastive"].detach())
    seconds = time.perf_counter() - started
    gradients = {name: p.grad.cpu() for name, p in objective.named_parameters() if p.grad is not None}
    peak = used_bytes(device, peak=True) - before
    found = {"peak_bytes": peak, "seconds": seconds, "loss": loss, "device": device.type, "gradients": gradients}
    torch.save(found, folder / f"{arguments.way}.pt")


def largest_difference(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """Of any gradient, as a share of the largest one of the same parameter, if that is more than rounding."""
    assert found.keys() == wanted.keys()
    largest = {name: float(gradient.abs().max()) for name, gradient in wanted.items()}
    negligible = NEGLIGIBLE * max(largest.values())  # attention does not depend on the biases of its keys, for one
    return max(
        float((found[name] - gradient).abs().max()) / largest[name]
        for name, gradient in wanted.items()
        if largest[name] > negligible
    )


def main() -> None:
    """Measure both ways, print the table, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--num-pairs", type=int, default=32)
    parser.add_argument("--part-size", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way is not None:
        measure(arguments, arguments.folder)
        return
    results: dict[str, dict[str, Any]] = {}
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            command = [sys.executable, __file__, *sys.argv[1:], "--way", way, "--folder", folder]
            subprocess.run(command, env=environment, check=True)
            results[way] = torch.load(Path(folder) / f"{way}.pt")
    whole, parts = results["whole"], results["parts"]
    table = Table(
        "way",
        *(Column(title, justify="right") for title in ("peak, MiB", "seconds", "loss")),
        title=f"{arguments.num_pairs} pairs of {arguments.image_size} px, parts of {arguments.part_size},"
        f" fp32, {whole['device']}",
    )
    for way, result in results.items():
        table.add_row(way, f"{result['peak_bytes'] / 2**20:,.0f}", f"{result['seconds']:.1f}", f"{result['loss']:.6f}")
    share = parts["peak_bytes"] / whole["peak_bytes"]
    difference = largest_difference(parts["gradients"], whole["gradients"])
    Console(width=100).print(table)
    print(
        f"parts need {share:.0%} of the memory; gradients differ by {difference:.1e} of a parameter's largest at most"
    )
    if share > MAX_SHARE or difference > MAX_DIFFERENCE:
        sys.exit(f"benchmarks/gradient_caching.py: at most {MAX_SHARE:.0%} and {MAX_DIFFERENCE:.0e} are wanted")


if __name__ == "__main__":
    main()
