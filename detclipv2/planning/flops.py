"""Floating-point operations of a training, counted by running it on fake tensors.

These have shapes, types and a device, but no numbers, so that no image is too large. A multiplication and an addition count as
two, and only matrix products and convolutions count, as is usual. Model FLOPs leave out what is computed a second time (gradient
checkpointing, gradient caching): they are those of MFU, all are those of HFU.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from detclipv2.build import build_detector, build_text_encoder
from detclipv2.config import ModelConfig, Supervision, TrainConfig
from detclipv2.losses.contrastive import word_region_loss
from detclipv2.models.clip_text_encoder import ClipTextArchitecture, ClipTextEncoder
from detclipv2.models.detector import DetCLIPv2
from detclipv2.models.text_encoder import TextEncoder
from detclipv2.ops.focal_linear import focal_linear
from detclipv2.structures import HeadMaps

Device = Literal["cpu", "cuda"]
_SMALL = 4  # rows, texts and captions with which a loss is counted: it grows with their product


@dataclass(frozen=True, kw_only=True)
class PassFlops:
    """FLOPs of a part of the network."""

    forward: float
    backward: float

    @property
    def total(self) -> float:
        """Of both passes."""
        return self.forward + self.backward


@dataclass(frozen=True, kw_only=True)
class TextFlops(PassFlops):
    """FLOPs of one text of the longest length that is not cut."""

    recomputed: float  # by gradient checkpointing: no model FLOPs


@dataclass(frozen=True, kw_only=True)
class ImageFlops:
    """FLOPs of one image of a supervision type, texts apart."""

    backbone: PassFlops
    neck: PassFlops
    head: PassFlops
    losses: float = 0.0  # both passes; they grow with the texts of the step
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


@dataclass(frozen=True, kw_only=True)
class FakeDetector:
    """A detector in training mode, and the mode in which its tensors can be made."""

    detector: DetCLIPv2
    mode: FakeTensorMode
    device: Device

    def pixels(self, size_hw: tuple[int, int], *, batch_size: int) -> Tensor:
        """What the backbone takes: [B, 3, H, W], sides padded as the detector does. Call it inside ``mode``."""
        divisor = self.detector.backbone.size_divisor
        height, width = (side + -side % divisor for side in size_hw)
        pixels = torch.empty(batch_size, 3, height, width, device=self.device)
        return pixels.contiguous(memory_format=torch.channels_last)


@cache
def fake_detector(config: ModelConfig, *, device: Device) -> FakeDetector:
    """The image side of the detector that a configuration describes; no weights are read, and the texts' side is a stub.

    ``device`` is where the tensors claim to be: some operations go another way on a CPU. On "cuda" only the forward pass can be
    run without a GPU.
    """
    # A backbone is checked with real numbers when its normalisation is folded, so it is made with them.
    with torch.random.fork_rng(devices=[]):  # whoever counts in the middle of something keeps their random numbers
        stub = ClipTextEncoder(ClipTextArchitecture(width=8, num_layers=1, num_heads=1), embed_dim=config.embed_dim)
        detector = build_detector(replace(config, backbone_weights="random"), text_encoder=stub).train()
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        detector = detector.to_empty(device=device)
    return FakeDetector(detector=detector, mode=mode, device=device)


def image_flops(
    model: ModelConfig, train: TrainConfig, supervision: Supervision, *, num_texts: int, world_size: int = 1
) -> ImageFlops:
    """FLOPs of one image of a type, counted; a step has ``num_texts`` distinct texts over all processes."""
    settings = train.supervisions()[supervision]
    network = _network_flops(model, settings.canvas_hw, with_boxes=supervision == "detection")
    if supervision != "image_text":
        return replace(network, losses=_alignment_flops(model.embed_dim) * network.num_anchors * num_texts)
    losses = _contrastive_flops(model.embed_dim) * train.loss.num_proposals * num_texts
    if train.loss.proposal_score.startswith("text"):
        # Proposals are chosen with the concepts of a process's own images.
        losses += 2 * model.embed_dim * network.num_anchors * num_texts / world_size
    has_caching = settings.samples_per_worker(world_size) > settings.batch_size  # one more forward pass
    return replace(network, losses=losses, recomputed=network.recomputed + has_caching * network.forward)


@cache
def _network_flops(model: ModelConfig, size_hw: tuple[int, int], *, with_boxes: bool) -> ImageFlops:
    """Forward and backward pass of each part, on fake tensors of a CPU.

    There the deformable convolution is a weighted sum of rows and one matrix product, of the size that a GPU's kernel has too.
    """
    fake = fake_detector(replace(model, gradient_checkpointing=False), device="cpu")
    with fake.mode:
        features, backbone = _counted(fake.detector.backbone, fake.pixels(size_hw, batch_size=1))
        pyramid, neck = _counted(fake.detector.neck, features)
        outputs, head = _counted(partial(_head_outputs, fake, with_boxes=with_boxes), pyramid)
    recomputed = 0.0
    if model.gradient_checkpointing:
        again = fake_detector(model, device="cpu")
        with again.mode:
            _, with_recomputation = _counted(again.detector.backbone, again.pixels(size_hw, batch_size=1))
        recomputed = with_recomputation.backward - backbone.backward
    return ImageFlops(
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


@cache
def text_flops(model: ModelConfig) -> TextFlops:
    """FLOPs of encoding one text of the longest length.

    Raises:
        ValueError: the configuration names weights that are not there.
    """
    with torch.random.fork_rng(devices=[]):
        plain = encoder_flops(text_encoder(replace(model, gradient_checkpointing=False)), num_texts=2)
        again = encoder_flops(text_encoder(model), num_texts=2) if model.gradient_checkpointing else plain
    recomputed = (again.backward - plain.backward) / 2
    return TextFlops(forward=plain.forward / 2, backward=plain.backward / 2, recomputed=recomputed)


def text_encoder(model: ModelConfig) -> TextEncoder:
    """The text encoder in training mode; CLIP's has random weights, of the base size, as those of ViT-B and FILIP-base are."""
    weights = "random" if model.text_encoder == "clip" else model.text_weights
    return build_text_encoder(replace(model, text_weights=weights)).train()


def encoder_flops(encoder: TextEncoder, *, num_texts: int) -> PassFlops:
    """FLOPs of encoding texts of the longest length, counted on real ones."""
    texts = longest_texts(encoder, num_texts)
    with counted_flops() as counter:
        embeddings = encoder(texts)
        forward = counter.get_total_flops()
        embeddings.sum().backward()
    return PassFlops(forward=forward, backward=counter.get_total_flops() - forward)


def longest_texts(encoder: TextEncoder, num_texts: int) -> list[str]:
    """Distinct texts that an encoder cuts."""
    return [" ".join([chr(ord("a") + number)] * encoder.max_tokens) for number in range(num_texts)]
