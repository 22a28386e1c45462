"""Sigmoid focal loss of a matrix product that is never held whole, against a target with few ones.

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
    chunk_elements: int | None = None,
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
        chunk_elements: logits held at once; None takes the device's constant.
    """
    with torch.autocast(regions.device.type, enabled=False):
        regions, texts, bias = common_precision(regions, texts, bias)
        num_texts = len(texts)
        row, column = positives // num_texts, positives % num_texts
        negatives = _Negatives.apply(
            regions,
            texts,
            bias,
            rows,
            torch.searchsorted(rows, row) * num_texts + column,
            gamma,
            chunk_rows(num_texts, device=regions.device, chunk_elements=chunk_elements),
            torch.is_grad_enabled(),
        )
        logits = (regions[row] * texts[column]).sum(-1) + bias  # [P]
        # (1 - p)^gamma as exp(gamma log(1 - p)): its derivative is finite where 1 - p is 0, whatever gamma.
        log_losses = (gamma * F.logsigmoid(-logits)).exp() * F.logsigmoid(logits)
        return (1 - alpha) * negatives - alpha * log_losses.sum()


class _Negatives(Function):
    """Sum over all pairs but the positives of -p^gamma log(1 - p), p being the sigmoid of the logit."""

    @staticmethod
    def forward(
        ctx: Any,
        regions: Tensor,  # [N, D]
        texts: Tensor,  # [M, D]
        bias: Tensor,  # []
        rows: Tensor,  # [R]
        positives: Tensor,  # [P] in rising order, into the flattened [R, M]
        gamma: float,
        num_rows: int,
        with_grad: bool,
    ) -> Tensor:
        inputs = (regions, texts, bias)
        # What is wanted does not depend on whether gradients are enabled at all.
        wanted = [with_grad and needed for needed in ctx.needs_input_grad[:3]]
        grads = [torch.zeros_like(tensor) if want else None for tensor, want in zip(inputs, wanted, strict=True)]
        chunks = rows.split(num_rows)
        starts = torch.arange(len(chunks) + 1, device=rows.device) * num_rows * len(texts)
        bounds = torch.searchsorted(positives, starts).tolist()
        sums = bias.new_zeros(len(chunks))
        for number, chunk in enumerate(chunks):
            part = regions[chunk]
            excluded = positives[bounds[number] : bounds[number + 1]] - starts[number]
            sums[number], slope = _chunk(torch.addmm(bias, part, texts.T), excluded, gamma=gamma, with_grad=any(wanted))
            if grads[0] is not None:
                grads[0][chunk] = slope @ texts
            if grads[1] is not None:
                grads[1].addmm_(slope.T, part)
            if grads[2] is not None:
                grads[2] += slope.sum()
        ctx.save_for_backward(*grads)
        return sums.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *(None if saved is None else grad * saved for saved in ctx.saved_tensors), None, None, None, None, None


def _chunk(logits: Tensor, excluded: Tensor, *, gamma: float, with_grad: bool) -> tuple[Tensor, Tensor]:
    """The loss [] of a chunk [n, M] and, if it is wanted, the loss's derivative by the logits [n, M].

    With p the sigmoid and s = -log(1 - p) the softplus, a logit's loss is p^gamma s, and since p' = p (1 - p) and s' = p
    the derivative is p^gamma (gamma (1 - p) s + p).
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
