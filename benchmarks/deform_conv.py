"""Deformable convolution on a CPU: ours against torchvision's kernel, forward and backward, in one run.

Run ``python benchmarks/deform_conv.py`` with one OpenMP thread a process. It fails if ours is the slower one.
"""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchvision.ops import deform_conv2d

from benchmarks.processes import interleaved
from detclipv2.ops.deform_conv import modulated_deform_conv

SHAPE = (32, 96, 16, 16)  # images, channels, height, width: the finest level of a 128 px batch
NUM_ROUNDS = 7

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def torchvision_kernel(features: Tensor, offset: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """The kernel of torchvision with our order of arguments."""
    return deform_conv2d(features, offset, weight, padding=1, mask=mask)


def make_inputs() -> list[Tensor]:
    """Features, offsets of about a cell, masks and weights, all of which want a gradient."""
    generator = torch.Generator().manual_seed(0)
    batch, channels, height, width = SHAPE
    shapes = [SHAPE, (batch, 18, height, width), (batch, 9, height, width), (channels, channels, 3, 3)]
    features, offset, mask, weight = (torch.randn(shape, generator=generator) for shape in shapes)
    return [tensor.requires_grad_() for tensor in (features, offset, mask.sigmoid(), weight / 30)]


def time_round(kernel: Kernel, inputs: list[Tensor]) -> tuple[float, float]:
    """Seconds of one forward and one backward pass."""
    started = time.perf_counter()
    output = kernel(*inputs)
    forwarded = time.perf_counter()
    torch.autograd.grad(output.sum(), inputs)
    return forwarded - started, time.perf_counter() - forwarded


def main() -> None:
    """Time both kernels in turn, print the medians, and fail if ours is slower."""
    inputs = make_inputs()
    kernels: dict[str, Kernel] = {"torchvision": torchvision_kernel, "ours": modulated_deform_conv}
    rounds = {name: partial(time_round, kernel, inputs) for name, kernel in kernels.items()}
    times = interleaved(rounds, rounds=NUM_ROUNDS, warm_up_rounds=1)
    table = Table("kernel", "forward, ms", "backward, ms", "together, ms", title=f"features {list(SHAPE)}, fp32, CPU")
    medians: dict[str, float] = {}
    for name, measured in times.items():
        medians[name] = statistics.median(sum(parts) for parts in measured)
        parts = [statistics.median(column) for column in zip(*measured, strict=True)]
        table.add_row(name, *(f"{1000 * seconds:.1f}" for seconds in (*parts, medians[name])))
    ratio = medians["torchvision"] / medians["ours"]
    console = Console()
    console.print(table)
    console.print(f"ours is {ratio:.2f} times as fast as torchvision's, {torch.get_num_threads()} thread(s)")
    if ratio < 1:
        sys.exit("benchmarks/deform_conv.py: ours is slower than torchvision's kernel")


if __name__ == "__main__":
    main()
