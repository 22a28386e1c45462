"""Collective operations of the losses; each is the identity in a single process."""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

T = TypeVar("T")


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Position of this process among them."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather_objects(value: T) -> list[T]:
    """Small picklable values of all ranks, in rank order."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def mean_over_ranks(value: Tensor) -> Tensor:
    """Mean of a scalar over ranks, without gradient."""
    value = value.detach().clone()
    if world_size() > 1:
        dist.all_reduce(value)
        value /= world_size()
    return value


class _GatherWithGrad(Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(world_size())]
        dist.all_gather(parts, tensor.contiguous())
        ctx.rows = tensor.shape[0]
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total[rank() * ctx.rows : (rank() + 1) * ctx.rows]


def gather_with_grad(tensor: Tensor) -> Tensor:
    """Rows [n, ...] of all ranks, concatenated to [world * n, ...]; ``n`` is the same on every rank.

    The gradient of a row is the sum of what all ranks' losses say of it, so that after the usual averaging of parameter
    gradients over ranks the result is the gradient of the mean of the ranks' losses.
    """
    return tensor if world_size() == 1 else _GatherWithGrad.apply(tensor)
