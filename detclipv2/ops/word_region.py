"""Word-region similarity of texts and images, from a matrix [U, B k] that is never in memory as a whole.

Shapes: U texts, B images of k regions, C captions of some of the texts, D width. Common arguments: texts [U, D], regions
[B, k, D], and a mask [B, k] bool that is False on padding. An image without any region has similarity 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from detclipv2.ops.chunked import chunk_rows, common_precision


def best_region_similarity(texts: Tensor, regions: Tensor, mask: Tensor) -> Tensor:
    """Similarity [U, B] of each text to the most similar region of each image (Eq. 2 of arXiv:2304.04514).

    The forward pass notes which region it was, so the backward pass needs no similarities. Of equal regions one is taken.
    """
    with torch.autocast(texts.device.type, enabled=False):
        return _BestRegion.apply(*common_precision(texts, regions), mask)


class _BestRegion(Function):
    @staticmethod
    def forward(ctx: Any, texts: Tensor, regions: Tensor, mask: Tensor) -> Tensor:
        num_images, num_regions = mask.shape
        table, empty = regions.flatten(0, 1).T, ~mask.any(-1)
        num_rows = chunk_rows(mask.numel(), device=texts.device)
        best = texts.new_empty(len(texts), num_images)
        choice = torch.empty(best.shape, dtype=_index_type(num_regions), device=texts.device)
        for rows in _slices(len(texts), num_rows):
            similarity = (texts[rows] @ table).view(-1, num_images, num_regions).masked_fill_(~mask, -torch.inf)
            best[rows], choice[rows] = similarity.max(-1)
        ctx.save_for_backward(texts, regions, empty, choice)
        return best.masked_fill_(empty, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        texts, regions, empty, choice = ctx.saved_tensors
        num_images, num_regions = regions.shape[:2]
        table = regions.detach().flatten(0, 1).requires_grad_(ctx.needs_input_grad[1])
        first = torch.arange(num_images, device=texts.device) * num_regions
        grad_texts, grad_table = torch.empty_like(texts), torch.zeros_like(table)
        num_rows = chunk_rows(num_images, device=texts.device)
        for rows in _slices(len(texts), num_rows):
            # A text's gradient is a weighted sum of the regions it chose, and theirs the transpose of the same sum.
            weights = grad[rows].masked_fill(empty, 0.0)
            with torch.enable_grad():
                chosen = F.embedding_bag(choice[rows] + first, table, per_sample_weights=weights, mode="sum")
            grad_texts[rows] = chosen.detach()
            if table.requires_grad:
                grad_table += torch.autograd.grad(chosen, table, texts[rows])[0]
        return grad_texts, grad_table.view_as(regions), None


def soft_region_similarity(texts: Tensor, regions: Tensor, mask: Tensor, *, temperature: float) -> Tensor:
    """Similarity [U, B]: mean over an image's regions, weighted by their softmax at ``temperature`` (tau_t of Eq. 4)."""
    empty = ~mask.any(-1)
    excluded = ~mask & ~empty[:, None]  # a softmax needs a term
    num_rows = chunk_rows(mask.numel(), device=texts.device)
    blocks = [_Block(rows=rows, length=1) for rows in _slices(len(texts), num_rows)]
    with torch.autocast(texts.device.type, enabled=False):
        rule = _SoftRegion(excluded=excluded, temperature=temperature)
        return _Reduced.apply(*common_precision(texts, regions), blocks, rule).masked_fill(empty, 0.0)


def best_word_similarity(texts: Tensor, regions: Tensor, mask: Tensor, captions: Sequence[Sequence[int]]) -> Tensor:
    """Similarity [C, B]: mean over an image's regions of each one's highest similarity to a caption's texts.

    The half of FILIP's late interaction (arXiv:2111.07783) that Table 2c of arXiv:2304.04514 calls image to text. ``captions``
    has the texts of each caption, at least one.
    """
    # Captions of one length make blocks without padding; the order is restored at the end.
    order = sorted(range(len(captions)), key=lambda caption: len(captions[caption]))
    members = torch.tensor([text for caption in order for text in captions[caption]], device=texts.device)
    blocks: list[_Block] = []
    for length, group in groupby(order, key=lambda caption: len(captions[caption])):
        num_rows = chunk_rows(length * mask.numel(), device=texts.device)
        start = blocks[-1].rows.stop if blocks else 0
        for part in _slices(len(list(group)), num_rows):
            rows = slice(start + length * part.start, start + length * part.stop)
            blocks.append(_Block(rows=rows, length=length))
    with torch.autocast(texts.device.type, enabled=False):
        texts, regions = common_precision(texts, regions)
        rule = _BestWord(shares=mask.to(texts.dtype) / mask.sum(-1, keepdim=True).clamp(min=1))
        similarity = _Reduced.apply(F.embedding(members, texts), regions, blocks, rule)
        return similarity[torch.tensor(order, device=texts.device).argsort()]


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Consecutive texts that are looked at together."""

    rows: slice
    length: int  # texts of a caption

    @property
    def num_captions(self) -> int:
        return int(self.rows.stop - self.rows.start) // self.length


class _Rule(Protocol):
    """How similarities [c, L, B, k] of c captions of L texts become [c, B]. Both methods may overwrite them."""

    def value(self, similarity: Tensor) -> Tensor: ...

    def slope(self, similarity: Tensor, value: Tensor, grad: Tensor) -> Tensor:
        """Gradient by the similarities, from that by the values [c, B]."""
        ...


@dataclass(frozen=True, kw_only=True)
class _SoftRegion:
    """Softmax-weighted mean w . s over regions, whose derivative by s is w (1 + (s - w . s) / temperature)."""

    excluded: Tensor  # [B, k] bool
    temperature: float

    def _weights(self, similarity: Tensor) -> Tensor:
        return (similarity / self.temperature).masked_fill_(self.excluded, -torch.inf).softmax(-1)

    def value(self, similarity: Tensor) -> Tensor:
        return similarity.mul_(self._weights(similarity)).sum(-1).squeeze(1)

    def slope(self, similarity: Tensor, value: Tensor, grad: Tensor) -> Tensor:
        weights = self._weights(similarity).mul_(grad[:, None, :, None])
        return similarity.sub_(value[:, None, :, None]).div_(self.temperature).add_(1).mul_(weights)


@dataclass(frozen=True, kw_only=True)
class _BestWord:
    """Highest similarity over the texts of a caption, then the mean over regions."""

    shares: Tensor  # [B, k], of the regions in the mean

    def value(self, similarity: Tensor) -> Tensor:
        return (similarity.amax(1) * self.shares).sum(-1)

    def slope(self, similarity: Tensor, value: Tensor, grad: Tensor) -> Tensor:
        choice = similarity.max(1, keepdim=True).indices
        return similarity.zero_().scatter_(1, choice, (grad[..., None] * self.shares)[:, None])


class _Reduced(Function):
    """A rule over blocks of the similarities [U, B k], which the backward pass computes again."""

    @staticmethod
    def forward(ctx: Any, texts: Tensor, regions: Tensor, blocks: list[_Block], rule: _Rule) -> Tensor:
        # Taken before the blocks' buffers: small tensors that stay would cut up the memory that these leave.
        values = texts.new_empty(sum(block.num_captions for block in blocks), len(regions))
        first = 0
        for block in blocks:
            values[first : first + block.num_captions] = rule.value(_similarity(texts, regions, block))
            first += block.num_captions
        ctx.save_for_backward(texts, regions, values)
        ctx.blocks, ctx.rule = blocks, rule
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        texts, regions, values = ctx.saved_tensors
        grad_texts, grad_regions = torch.empty_like(texts), torch.zeros_like(regions)
        table, grad_table = regions.flatten(0, 1), grad_regions.flatten(0, 1)
        sizes = [block.num_captions for block in ctx.blocks]
        with torch.autocast(texts.device.type, enabled=False):
            for block, value, part in zip(ctx.blocks, values.split(sizes), grad.split(sizes), strict=True):
                slope = ctx.rule.slope(_similarity(texts, regions, block), value, part).flatten(2).flatten(0, 1)
                torch.mm(slope, table, out=grad_texts[block.rows])
                grad_table.addmm_(slope.T, texts[block.rows])
        return grad_texts, grad_regions, None, None


def _similarity(texts: Tensor, regions: Tensor, block: _Block) -> Tensor:
    similarity = texts[block.rows] @ regions.flatten(0, 1).T
    return similarity.view(-1, block.length, *regions.shape[:2])


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _index_type(count: int) -> torch.dtype:
    """The smallest type of the indices below ``count``."""
    return next(dtype for dtype in (torch.uint8, torch.int16, torch.int32) if count - 1 <= torch.iinfo(dtype).max)
