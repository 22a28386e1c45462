"""Counting FLOPs by pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True, kw_only=True)
class PassFlops:
    """FLOPs of a part of the network."""

    forward: float
    backward: float

    @property
    def total(self) -> float:
        """Of both passes."""
        return self.forward + self.backward


@contextmanager
def counted_flops() -> Iterator[FlopCounterMode]:
    """Count the FLOPs of all matrix products and convolutions.

    Attention is taken by way of matrix products, since of the kernels for it PyTorch's counter knows some alone.
    """
    products = {torch.ops.aten.addmm_: _added_product_flops}  # which it does not know in place
    with FlopCounterMode(display=False, custom_mapping=products) as counter, sdpa_kernel(SDPBackend.MATH):
        yield counter


def _added_product_flops(_: torch.Size, left: torch.Size, right: torch.Size, **options: Any) -> int:
    """Of ``x.addmm_(left, right)``, from the shapes."""
    return 2 * left[0] * left[1] * right[1]
