"""Sigmoid focal loss of a matrix product that is never in memory as a whole, against a target with few ones.

Shapes: N regions of width D, of which R count; M texts; P pairs of a region and a text that belong together.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from detclipv2.ops.chunked import chunk_rows, common_precision


def focal_linear(
    regions: Tensor,
    texts: Tensor,
    bias: Tensor,
    *,
    rows: Tensor,
    positives: Tensor,
    alpha: float,
    gamma: float,
) -> Tensor:
    """Sum of the focal loss (arXiv:1708.02002) of the logits ``regions[rows] @ texts.T + bias`` [R, M].

    The same as ``torchvision.ops.sigmoid_focal_loss`` of these logits and a target that is 1 at the positives, but with
    memory for one chunk of rows. The gradient of a sum is known as soon as its terms are, so the forward pass takes it
    chunk by chunk and keeps what falls to the three inputs. All is computed in the inputs' precision, fp32 at least.

    Args:
        regions: [N, D].
        texts: [M, D].
        bias: [].
        rows: [R] distinct regions that count, in rising order.
        positives: [P] distinct pairs as ``row * M + column`` of the [N, M] logits, in rising order; their rows count.
        alpha: weight of the positives; the negatives have 1 - alpha.
        gamma: focusing exponent, at least 0.
    """
    with torch.autocast(regions.device.type, enabled=False):
        num_rows = chunk_rows(len(texts), device=regions.device)
        inputs = common_precision(regions, texts, bias)
        loss: Tensor = _FocalLinear.apply(*inputs, rows, positives, alpha, gamma, num_rows, torch.is_grad_enabled())
        return loss


class _FocalLinear(Function):
    @staticmethod
    def forward(
        ctx: Any,
        regions: Tensor,
        texts: Tensor,
        bias: Tensor,
        rows: Tensor,
        positives: Tensor,
        alpha: float,
        gamma: float,
        num_rows: int,
        with_grad: bool,
    ) -> Tensor:
        # What an input wants does not depend on whether gradients are enabled at all.
        wanted = [with_grad and needed for needed in ctx.needs_input_grad[:3]]
        grads = [
            torch.zeros_like(tensor) if want else None
            for tensor, want in zip((regions, texts, bias), wanted, strict=True)
        ]
        grad_regions, grad_texts, grad_bias = grads
        row, column = positives // len(texts), positives % len(texts)
        positions = torch.searchsorted(rows, row) * len(texts) + column  # [P], in the flattened [R, M]
        chunks = rows.split(num_rows)
        starts = torch.arange(len(chunks) + 1, device=rows.device) * num_rows * len(texts)
        bounds = torch.searchsorted(positions, starts).tolist()
        negatives = bias.new_zeros(len(chunks))
        for number, chunk in enumerate(chunks):
            part = regions[chunk]
            excluded = positions[bounds[number] : bounds[number + 1]] - starts[number]
            negatives[number], slope = _negatives(
                torch.addmm(bias, part, texts.T), excluded, gamma=gamma, with_grad=any(wanted)
            )
            if grad_regions is not None:
                grad_regions[chunk] = (slope @ texts).mul_(1 - alpha)
            if grad_texts is not None:
                grad_texts.addmm_(slope.T, part, alpha=1 - alpha)
            if grad_bias is not None:
                grad_bias.add_(slope.sum(), alpha=1 - alpha)
        # A positive of logit x is a negative of logit -x, but for the weight.
        part, text = regions[row], texts[column]  # [P, D]
        loss, slope = _negatives(-(part * text).sum(-1) - bias, positions[:0], gamma=gamma, with_grad=True)
        slope.mul_(-alpha)
        if grad_regions is not None:
            grad_regions.index_add_(0, row, slope[:, None] * text)
        if grad_texts is not None:
            grad_texts.index_add_(0, column, slope[:, None] * part)
        if grad_bias is not None:
            grad_bias.add_(slope.sum())
        ctx.save_for_backward(*grads)
        return (1 - alpha) * negatives.sum() + alpha * loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads = [None if saved is None else grad * saved for saved in ctx.saved_tensors]
        return *grads, None, None, None, None, None, None


def _negatives(logits: Tensor, excluded: Tensor, *, gamma: float, with_grad: bool) -> tuple[Tensor, Tensor]:
    """Unweighted loss [] of logits of negatives and, if asked for, its derivative by them, of their shape.

    With p the sigmoid and s = -log(1 - p) the softplus, a logit's loss is p^gamma s, and since p' = p (1 - p) and s' = p
    the derivative is p^gamma (gamma (1 - p) s + p). At the flat positions ``excluded`` both are 0.
    """
    p = logits.sigmoid()
    s = F.softplus(logits, threshold=40.0)  # beyond it the softplus is its argument, even in float64
    focus = p.square() if gamma == 2 else p.pow(gamma)
    focus.view(-1)[excluded] = 0
    loss = torch.dot(focus.view(-1), s.view(-1))
    if with_grad:
        s.addcmul_(s, p, value=-1)
        p.add_(s, alpha=gamma).mul_(focus)
    return loss, p
