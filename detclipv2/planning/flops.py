"""Floating-point operations of a training, counted by running it.

A multiplication and an addition count as two, and only matrix products and convolutions count, as is usual. Model FLOPs leave
out what is computed a second time (gradient checkpointing, gradient caching): they are those of MFU, all are those of HFU.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from detclipv2.config import ModelConfig, Supervision, TrainConfig
from detclipv2.losses.contrastive import word_region_loss
from detclipv2.models.head import HeadMaps
from detclipv2.ops.focal_linear import focal_linear
from detclipv2.planning.fake import FakeDetector, canvas_hw, fake_detector, normalised_pixels
from detclipv2.planning.passes import PassFlops, counted_flops
from detclipv2.planning.texts import DataSize, distinct_texts

_SMALL = 4  # rows, texts and captions with which a loss is counted: it grows with their product


@dataclass(frozen=True, kw_only=True)
class ImageFlops:
    """FLOPs of one image of a supervision type, texts apart."""

    backbone: PassFlops
    neck: PassFlops
    head: PassFlops
    losses: float  # both passes; they grow with the texts of the step
    num_anchors: int
    recomputed: float  # by gradient checkpointing and gradient caching: no model FLOPs

    @property
    def forward(self) -> float:
        """Of the network's forward pass."""
        return self.backbone.forward + self.neck.forward + self.head.forward

    @property
    def model(self) -> float:
        """Model FLOPs: forward, backward and losses, once each."""
        return self.backbone.total + self.neck.total + self.head.total + self.losses


def train_flops(
    model: ModelConfig,
    train: TrainConfig,
    *,
    sizes: dict[Supervision, DataSize] | None = None,
    world_size: int = 1,
) -> dict[Supervision, float]:
    """Model FLOPs of one image of each supervision type: what images a second are multiplied with for MFU.

    Those of the texts are left out (``planning.texts.text_cost``): they belong to a step and not to an image.

    Args:
        model: the network.
        train: the training.
        sizes: what the texts of a step, which the losses grow with, are reckoned from; the paper's datasets unless given.
        world_size: number of processes.
    """
    counted = {
        name: image_flops(model, train, name, num_texts=distinct_texts(train, name, sizes=sizes, world_size=world_size))
        for name in train.supervisions()
    }
    return {name: flops.model for name, flops in counted.items()}


def image_flops(
    model: ModelConfig, train: TrainConfig, supervision: Supervision, *, num_texts: int, world_size: int = 1
) -> ImageFlops:
    """FLOPs of one image of a type, counted.

    Args:
        model: the network.
        train: the training.
        supervision: the type.
        num_texts: distinct texts of a step over all processes.
        world_size: number of processes.
    """
    settings = train.supervisions()[supervision]
    network = _network(model, canvas_hw(settings), with_boxes=supervision == "detection")
    recomputed = network.recomputed
    if settings.samples_per_worker(world_size) > settings.batch_size and supervision == "image_text":
        recomputed += network.forward  # gradient caching's first pass
    share = num_texts / world_size  # concepts of a process's own images, which proposals are chosen with
    if supervision == "image_text":
        losses = _contrastive_flops(model.embed_dim) * train.loss.num_proposals * num_texts
        if train.loss.proposal_score.startswith("text"):
            losses += 2 * model.embed_dim * network.num_anchors * share
    else:
        losses = _alignment_flops(model.embed_dim) * network.num_anchors * num_texts
    return ImageFlops(
        backbone=network.backbone,
        neck=network.neck,
        head=network.head,
        losses=losses,
        num_anchors=network.num_anchors,
        recomputed=recomputed,
    )


@dataclass(frozen=True, kw_only=True)
class _Network:
    backbone: PassFlops
    neck: PassFlops
    head: PassFlops
    num_anchors: int
    recomputed: float

    @property
    def forward(self) -> float:
        return self.backbone.forward + self.neck.forward + self.head.forward


@cache
def _network(model: ModelConfig, size_hw: tuple[int, int], *, with_boxes: bool) -> _Network:
    """Forward and backward pass of each part, on fake tensors of a CPU.

    There the deformable convolution is a weighted sum of rows and one matrix product, of the size that a GPU's kernel has too.
    """
    fake = fake_detector(model, device="cpu", checkpointing=False)
    with fake.mode:
        pixels = normalised_pixels(fake, size_hw, batch_size=1)
        features, backbone = _counted(fake.detector.backbone, pixels)
        pyramid, neck = _counted(fake.detector.neck, features)
        outputs, head = _counted(partial(_head_outputs, fake, with_boxes=with_boxes), pyramid)
    recomputed = 0.0
    if model.gradient_checkpointing:
        again = fake_detector(model, device="cpu", checkpointing=True)
        with again.mode:
            _, with_recomputation = _counted(again.detector.backbone, normalised_pixels(again, size_hw, batch_size=1))
        recomputed = with_recomputation.backward - backbone.backward
    return _Network(
        backbone=backbone, neck=neck, head=head, num_anchors=int(outputs[0].shape[1]), recomputed=recomputed
    )


def _head_outputs(fake: FakeDetector, pyramid: list[Tensor], *, with_boxes: bool) -> list[Tensor]:
    """What a loss is computed from: detection's know boxes and centerness too."""
    maps: HeadMaps = fake.detector.head(pyramid)
    others = [maps.box_deltas, maps.centerness] if with_boxes else []
    return [maps.embeddings, *others]


def _counted(
    part: Callable[..., Sequence[Tensor]], inputs: Tensor | Sequence[Tensor]
) -> tuple[list[Tensor], PassFlops]:
    """The outputs of a part of the network, without their past, and the FLOPs of its two passes."""
    if not isinstance(inputs, Tensor):  # what another part made, and wants the gradient of
        inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    with counted_flops() as counter:
        outputs = part(inputs)
        forward = counter.get_total_flops()
        torch.stack([output.sum() for output in outputs if output.requires_grad]).sum().backward()
    total = counter.get_total_flops()
    return [output.detach() for output in outputs], PassFlops(forward=forward, backward=total - forward)


@cache
def _alignment_flops(embed_dim: int) -> float:
    """Of both passes of L_align, for each pair of an anchor and a text."""
    regions, texts = torch.zeros(_SMALL, embed_dim), torch.zeros(_SMALL, embed_dim)
    with counted_flops() as counter:
        focal_linear(
            regions.requires_grad_(),
            texts.requires_grad_(),
            torch.zeros(()).requires_grad_(),
            rows=torch.arange(_SMALL),
            positives=torch.arange(0),
            alpha=0.25,
            gamma=2.0,
        ).backward()
    return counter.get_total_flops() / _SMALL**2


@cache
def _contrastive_flops(embed_dim: int) -> float:
    """Of both passes of L_cts, for each pair of a proposal and a text of the step."""
    texts = torch.zeros(_SMALL, embed_dim).requires_grad_()
    regions = torch.zeros(_SMALL, 1, embed_dim).requires_grad_()
    with counted_flops() as counter:
        mask = torch.ones(_SMALL, 1, dtype=torch.bool)
        word_region_loss(texts, regions, mask, [[index] for index in range(_SMALL)]).backward()
    return counter.get_total_flops() / _SMALL**2
