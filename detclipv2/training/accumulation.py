"""Gradient accumulation: the gradient of a batch that is too large for the network, from parts that are not.

The losses of DetCLIPv2 are not separable per image: a region is scored against the concepts of the global batch, focal and box
losses are divided by all its positives, and the contrastive loss compares each caption with every image. So a step is
arranged around what its parts share.

- Concepts are encoded once, without a graph. The losses see the embeddings as a leaf; its gradient is given to the encoder,
  which runs a second time, in chunks of ``TEXTS_AT_A_TIME``.
- Boxed types: which anchors are positive depends on boxes and anchors alone, so the normalisers of the whole global batch are
  there when the first part's losses are taken. Each part then goes forward and backward by itself.
- Image-text pairs: gradient caching (GradCache, arXiv:2101.06983). A pass without a graph chooses the regions of all pairs and
  keeps their embeddings, from which the loss of the global batch follows, with a gradient for each. A second pass runs each
  part again, from the same random state, and carries the gradients of the same regions on into the network.

What is equal: losses and gradients are those of ``HybridObjective.forward`` of the whole batch, but for rounding (which decides
what NMS keeps of two regions whose overlap is just its threshold), if nothing is drawn at random in the network. Dropout and
drop path draw for each part and each chunk of texts from a generator that is seeded for it; then they are those of the whole
batch computed in one graph, whose network went over these parts and chunks.

Shapes: B images of this process, M_B distinct concepts of the global batch, k proposals of an image, D width.
"""

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import KW_ONLY, dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from detclipv2.distributed import world_size
from detclipv2.losses.hybrid import HybridObjective
from detclipv2.losses.pool import ConceptPool, concept_pool
from detclipv2.losses.targets import BoxTargets
from detclipv2.models.proposals import Proposals
from detclipv2.structures import Batch, HeadOutput

TEXTS_AT_A_TIME = 256  # as many as a text encoder takes at once


def seed_torch(*key: int | str) -> None:
    """Seed torch's generators, those of accelerators too, by a key such as (seed, step, rank): no state has to be kept."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big", signed=True))


def autocast(device: torch.device, precision: Literal["fp32", "bf16"]) -> AbstractContextManager[object]:
    """What the forward pass of the network runs under."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def weighted(losses: Mapping[str, Tensor], weight: float) -> dict[str, Tensor]:
    """Losses of a supervision type, times the weight of the type."""
    return dict(losses) if weight == 1 else {name: weight * loss for name, loss in losses.items()}


@dataclass(frozen=True)
class Accumulation:
    """One step's gradient of a batch, part by part.

    It goes past ``DistributedDataParallel``, whose hooks wait for a forward pass of its own; all parts run without a
    synchronisation of gradients, which are averaged over ranks once, at the end.
    """

    objective: HybridObjective  # itself, not what wraps it
    _: KW_ONLY
    part_size: int  # images that go through the network together
    precision: Literal["fp32", "bf16"]  # of the network's forward pass
    seed: tuple[int | str, ...]  # of the step's random numbers; differs between steps and ranks
    weight: float = 1.0  # of the batch's supervision type

    def backward(self, batch: Batch) -> dict[str, Tensor]:
        """Add the gradient of the batch's summed losses to the parameters; every rank calls it.

        Returns:
            The losses by name, as ``HybridObjective.forward`` gives them, without a graph.
        """
        pool = concept_pool(batch)
        with torch.no_grad():
            mine = torch.cat([self._encoded(pool, chunk) for chunk in self._chunks(pool)])
        mine.requires_grad_()
        gathered = pool.gathered(mine)
        texts = gathered.detach().requires_grad_()
        losses = (self._image_text if batch.supervision == "image_text" else self._boxed)(batch, texts, pool)
        gathered.backward(texts.grad)
        assert mine.grad is not None
        for chunk in self._chunks(pool):
            self._encoded(pool, chunk).backward(mine.grad[chunk])
        average_gradients(self.objective.parameters())
        return losses

    def _chunks(self, pool: ConceptPool) -> list[slice]:
        return [slice(start, start + TEXTS_AT_A_TIME) for start in range(0, len(pool.mine), TEXTS_AT_A_TIME)]

    def _encoded(self, pool: ConceptPool, chunk: slice) -> Tensor:
        seed_torch(*self.seed, "texts", chunk.start)
        embeddings: Tensor = self.objective.detector.text_encoder(pool.mine[chunk])
        return embeddings

    def _output(self, part: Batch, start: int) -> HeadOutput:
        """What the network says of a part, from the random state that goes with its first image."""
        seed_torch(*self.seed, "images", start)
        with autocast(part.pixels.device, self.precision):
            output: HeadOutput = self.objective.detector(part.pixels, part.image_sizes_hw)
        return output

    def _parts(self, batch: Batch) -> Iterable[tuple[range, Batch]]:
        start = 0
        for part in batch.split(self.part_size):
            yield range(start, start + len(part.keys)), part
            start += len(part.keys)

    def _boxed(self, batch: Batch, texts: Tensor, pool: ConceptPool) -> dict[str, Tensor]:
        totals: dict[str, Tensor] = {}
        targets: BoxTargets | None = None
        for images, part in self._parts(batch):
            output = self._output(part, images.start)
            if targets is None:  # all parts have the same canvas, so the same anchors
                targets = self.objective.targets(batch, output, pool)
            losses = weighted(self.objective.boxed_losses(output, texts, targets.of_images(images)), self.weight)
            torch.stack(list(losses.values())).sum().backward()
            for name, loss in losses.items():
                totals[name] = totals.get(name, 0) + loss.detach()
        return totals

    def _image_text(self, batch: Batch, texts: Tensor, pool: ConceptPool) -> dict[str, Tensor]:
        parts: list[Proposals] = []
        with torch.no_grad():
            for images, part in self._parts(batch):
                output = self._output(part, images.start)
                chosen = slice(images.start, images.stop)
                parts.append(self.objective.proposals(output, texts, pool, images=chosen))
        fields = vars(parts[0])
        proposals = Proposals(**{name: torch.cat([getattr(part, name) for part in parts]) for name in fields})
        proposals.embeddings.requires_grad_()
        losses = weighted(self.objective.image_text_losses(proposals, texts, pool), self.weight)
        torch.stack(list(losses.values())).sum().backward()
        gradients = proposals.embeddings.grad  # [B, k, D]
        assert gradients is not None
        for images, part in self._parts(batch):
            output = self._output(part, images.start)
            anchors = proposals.anchors[images.start : images.stop]  # [b, k]
            rows = torch.arange(len(anchors), device=anchors.device)[:, None]
            output.embeddings[rows, anchors].backward(gradients[images.start : images.stop])
        return {name: loss.detach() for name, loss in losses.items()}


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Mean of gradients over ranks, in one all-reduce for each type of number.

    As ``DistributedDataParallel`` does with ``find_unused_parameters``, a parameter that some ranks' losses did not reach
    counts as zero there, and one that none reached stays without a gradient.
    """
    if world_size() == 1:
        return
    by_type: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.requires_grad:
            by_type.setdefault(parameter.dtype, []).append(parameter)
    for group in by_type.values():
        reached = group[0].new_tensor([parameter.grad is not None for parameter in group])
        gradients = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in group]
        flat = torch.cat([reached, *gradients])
        dist.all_reduce(flat)
        anywhere, *sums = flat.split([len(group), *(parameter.numel() for parameter in group)])
        for parameter, is_reached, total in zip(group, anywhere.tolist(), sums, strict=True):
            parameter.grad = total.view_as(parameter) / world_size() if is_reached else None
