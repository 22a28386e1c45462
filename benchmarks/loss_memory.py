"""Time and memory of the losses on a CPU: in chunks, as detclipv2 computes them, against the whole matrix at once.

``python benchmarks/loss_memory.py`` measures each case, forward and backward, in a process of its own and prints a table.
Peak memory is what the process takes beyond its inputs, gradients included; seconds are the processor's. It exits
with status 1 if chunks need more than a tenth of a large matrix's memory, or if they are the slower way although nothing is
computed twice (the soft matching and image to text compute the similarities again in the backward pass).
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from benchmarks.processes import cpu_seconds, memory_bytes, run_script
from detclipv2.losses.alignment import alignment_loss
from detclipv2.losses.contrastive import word_region_similarity
from detclipv2.ops.word_region import best_word_similarity

MAX_SHARE = 0.1  # of the whole matrix in fp32
# Matrices from which on time and memory are judged: below, calls take the time, and gradients and buffers the memory.
TIMED_BYTES = 2**20
LARGE_BYTES = 2**30
POSITIVES_PER_IMAGE = 100
CONCEPTS_A_CAPTION = 6

Loss = Literal["alignment", "hard", "soft", "image_to_text"]
Run = Callable[[], Tensor]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One loss at one shape, computed one way."""

    loss: Loss
    way: Literal["chunks", "whole"]
    num_images: int
    num_regions: int  # of an image
    num_texts: int
    width: int
    num_rounds: int = 1  # the fastest counts

    @property
    def matrix_bytes(self) -> int:
        """Of the similarities in fp32."""
        return 4 * self.num_images * self.num_regions * self.num_texts


# Loss, images, regions of each, texts, width, rounds, and whether the whole matrix is tried too.
SHAPES: list[tuple[Loss, int, int, int, int, int, bool]] = [
    ("alignment", 8, 270, 200, 128, 20, True),  # the demo
    ("alignment", 1, 22_400, 1_000, 256, 3, True),
    ("alignment", 4, 22_400, 8_500, 256, 1, False),  # grounding, one GPU's share
    ("hard", 16, 50, 50, 128, 20, True),  # the demo
    ("hard", 192, 100, 4_000, 256, 1, True),
    ("hard", 192, 100, 37_000, 256, 1, False),  # image-text pairs, one GPU's share
    ("soft", 192, 100, 4_000, 256, 1, True),
    ("soft", 192, 100, 37_000, 256, 1, False),
    ("image_to_text", 192, 100, 4_000, 256, 1, True),
    ("image_to_text", 192, 100, 37_000, 256, 1, False),
]


def alignment(case: Case, regions: Tensor, texts: Tensor) -> Run:
    """L_align with positives spread evenly."""
    images = torch.arange(case.num_images).repeat_interleave(POSITIVES_PER_IMAGE)
    number = torch.arange(len(images))
    anchors, concepts = number * 7 % case.num_regions, number * 11 % case.num_texts
    bias, valid = torch.tensor(-4.6, requires_grad=True), torch.ones(regions.shape[:2], dtype=torch.bool)
    num_positives = torch.tensor(float(len(images)))

    def chunks() -> Tensor:
        return alignment_loss(
            regions,
            texts,
            bias,
            image_index=images,
            anchor_index=anchors,
            concept_index=concepts,
            valid=valid,
            num_positives=num_positives,
        )

    def whole() -> Tensor:
        logits = regions @ texts.T + bias
        targets = torch.zeros_like(logits)
        targets[images, anchors, concepts] = 1
        return (sigmoid_focal_loss(logits, targets) * valid[..., None]).sum() / num_positives

    return chunks if case.way == "chunks" else whole


def word_region(case: Case, regions: Tensor, texts: Tensor) -> Run:
    """The mean squared similarity of captions and images, every text being a concept of one caption."""
    texts_of = [
        list(range(i, min(i + CONCEPTS_A_CAPTION, len(texts)))) for i in range(0, len(texts), CONCEPTS_A_CAPTION)
    ]
    mask = torch.ones(regions.shape[:2], dtype=torch.bool)

    def chunks() -> Tensor:
        if case.loss == "image_to_text":
            return best_word_similarity(texts, regions, mask, texts_of)
        return word_region_similarity(
            texts, regions, mask, texts_of, matching="soft" if case.loss == "soft" else "hard"
        )

    def whole() -> Tensor:
        similarity = torch.einsum("ud,bkd->ubk", texts, regions)
        if case.loss == "image_to_text":
            return torch.stack([part.amax(0).mean(-1) for part in similarity.split(CONCEPTS_A_CAPTION)])
        soft = case.loss == "soft"
        of_text = ((similarity / 0.1).softmax(-1) * similarity).sum(-1) if soft else similarity.amax(-1)
        return torch.stack([part.mean(0) for part in of_text.split(CONCEPTS_A_CAPTION)])

    run = chunks if case.way == "chunks" else whole
    return lambda: run().square().mean()


def make(case: Case) -> tuple[Run, list[Tensor]]:
    """What to run, and its inputs that want a gradient."""
    generator = torch.Generator().manual_seed(0)
    regions = torch.randn(case.num_images, case.num_regions, case.width, generator=generator, requires_grad=True)
    texts = F.normalize(torch.randn(case.num_texts, case.width, generator=generator), dim=-1).requires_grad_()
    return (alignment if case.loss == "alignment" else word_region)(case, regions, texts), [regions, texts]


def measure(case: Case) -> dict[str, float]:
    """Processor seconds of a forward and backward pass, and peak bytes beyond the inputs, of this process."""
    warm_up, _ = make(replace(case, num_images=2, num_regions=8, num_texts=12))
    warm_up().backward()  # libraries set up their buffers when they are first called
    run, inputs = make(case)
    before, seconds = memory_bytes("VmRSS"), []
    for _ in range(case.num_rounds):
        for tensor in inputs:
            tensor.grad = None
        seconds.append(cpu_seconds(lambda: run().backward()))
    return {"seconds": min(seconds), "peak_bytes": memory_bytes("VmHWM") - before}


def measure_apart(case: Case) -> dict[str, float]:
    """``measure`` in a process of its own, with one thread."""
    return dict(json.loads(run_script(__file__, json.dumps(asdict(case)))))


def main() -> None:
    """Measure all cases, print the table, judge."""
    table = Table(
        Column("loss", no_wrap=True),
        Column("images x regions x texts x width", no_wrap=True),
        *(
            Column(title, justify="right")
            for title in ("matrix, MiB", "chunks, s", "whole, s", "chunks, MiB", "whole, MiB")
        ),
        title="forward and backward, fp32, CPU, one thread",
    )
    faults = []
    for loss, num_images, num_regions, num_texts, width, num_rounds, with_whole in SHAPES:
        case = Case(
            loss=loss,
            way="chunks",
            num_images=num_images,
            num_regions=num_regions,
            num_texts=num_texts,
            width=width,
            num_rounds=num_rounds,
        )
        chunks = measure_apart(case)
        whole = measure_apart(replace(case, way="whole")) if with_whole else None
        name = f"{case.loss} {case.num_images} x {case.num_regions} x {case.num_texts}"
        if case.matrix_bytes >= LARGE_BYTES and chunks["peak_bytes"] > MAX_SHARE * case.matrix_bytes:
            faults.append(f"{name}: {chunks['peak_bytes'] / case.matrix_bytes:.0%} of the matrix's memory")
        timed = case.loss in ("alignment", "hard") and case.matrix_bytes >= TIMED_BYTES
        if timed and whole and chunks["seconds"] > whole["seconds"]:
            faults.append(f"{name}: {chunks['seconds']:.3g} s against {whole['seconds']:.3g} s")
        both = (chunks, whole)
        table.add_row(
            case.loss,
            f"{num_images} x {num_regions:,} x {num_texts:,} x {width}",
            f"{case.matrix_bytes / 2**20:.0f}",
            *("-" if way is None else f"{way['seconds']:.3g}" for way in both),
            *("-" if way is None else f"{way['peak_bytes'] / 2**20:.0f}" for way in both),
        )
    Console(width=110).print(table)
    if faults:
        sys.exit("benchmarks/loss_memory.py: " + "; ".join(faults))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print(json.dumps(measure(Case(**json.loads(sys.argv[1])))))
    else:
        main()
