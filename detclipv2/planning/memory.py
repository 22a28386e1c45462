"""Memory of a training on one GPU, by part.

Activations are measured: the storages that the forward pass saves for the backward pass, on fake tensors that claim to be on a
GPU. What comes on top of the parts, such as the gradients that flow between layers, the kernels' work space and fragmentation,
is allowed for by `HEADROOM`.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from detclipv2.build import build_detector
from detclipv2.config import ModelConfig, Supervision, TrainConfig
from detclipv2.models.text_encoder import TextEncoder
from detclipv2.ops.chunked import chunk_rows
from detclipv2.planning.flops import Device, fake_detector, image_flops, longest_texts, text_encoder

HEADROOM = 0.15  # of a GPU's memory: nothing of the plan may need it
CONTEXT_BYTES = 1e9  # of CUDA, its libraries and the communicators
_FP32_BYTES = 4
Precision = Literal["fp32", "bf16"]
_CHUNK_BUFFERS = 3  # of logits that a chunked loss holds at once


class SavedTensors:
    """Adds up the memory of the tensors that a forward pass saves for the backward pass.

    Args:
        but: tensors that are there anyway, such as parameters.
    """

    def __init__(self, *, but: Iterable[Tensor] = ()) -> None:
        self._others = {_storage(tensor) for tensor in but}
        # The tensors too, since the storage of one that is gone may come back as another's.
        self._tensors: dict[int, Tensor] = {}

    def hooks(self) -> saved_tensors_hooks:
        """Under this every saved tensor is added."""
        return saved_tensors_hooks(self.add, lambda tensor: tensor)

    def add(self, tensor: Tensor) -> Tensor:
        """Count a tensor's storage, once."""
        if _storage(tensor) not in self._others:
            self._tensors.setdefault(_storage(tensor), tensor)
        return tensor

    @property
    def num_bytes(self) -> int:
        """Of all that was saved."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self._tensors.values())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


@contextmanager
def _autocast(device: str, precision: Precision) -> Iterator[None]:
    """``torch.autocast`` to bf16, on "cuda" even where there is no GPU, which the class of that name refuses."""
    before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    torch.set_autocast_enabled(device, precision == "bf16")
    torch.set_autocast_dtype(device, torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_enabled(device, before[0])
        torch.set_autocast_dtype(device, before[1])
        torch.clear_autocast_cache()


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """Parameters of a detector, those of the text encoder included."""

    num_parameters: int
    num_trained: int


@cache
def model_size(model: ModelConfig) -> ModelSize:
    """Count parameters.

    Raises:
        ValueError: the configuration names weights that are not there.
    """
    with torch.random.fork_rng(devices=[]):
        detector = build_detector(replace(model, backbone_weights="random"), text_encoder=text_encoder(model))
    parameters = list(detector.parameters())
    return ModelSize(
        num_parameters=sum(parameter.numel() for parameter in parameters),
        num_trained=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    )


@dataclass(frozen=True, kw_only=True)
class SavedBytes:
    """What a forward pass saves for the backward pass: it grows with the images, or with the texts."""

    fixed: float  # casts of the weights
    each: float
    each_recomputed: float = 0.0  # with gradient checkpointing: of the largest block, while it is computed again

    def of(self, count: float) -> float:
        """Peak of that many."""
        return self.fixed + count * (self.each + self.each_recomputed)


def activation_bytes(
    model: ModelConfig, size_hw: tuple[int, int], *, precision: Precision, device: Device
) -> SavedBytes:
    """Of images, measured with two and with three: the rest is a straight line, while of one some copies are views."""
    two, three = (image_bytes(model, size_hw, batch_size=n, precision=precision, device=device) for n in (2, 3))
    has_checkpointing = model.gradient_checkpointing
    block = largest_block_bytes(model, size_hw, precision=precision, device=device) if has_checkpointing else 0
    return SavedBytes(fixed=3 * two - 2 * three, each=three - two, each_recomputed=block)


@cache
def image_bytes(
    model: ModelConfig, size_hw: tuple[int, int], *, batch_size: int, precision: Precision, device: Device
) -> int:
    """What the forward pass of backbone, neck and head saves, its outputs included."""
    fake = fake_detector(model, device=device)
    with fake.mode:
        tensors = SavedTensors(but=fake.detector.parameters())
        with tensors.hooks(), _autocast(device, precision):
            features = fake.detector.backbone(fake.pixels(size_hw, batch_size=batch_size))
            maps = fake.detector.head(fake.detector.neck(features))
        for output in (maps.embeddings, maps.box_deltas, maps.centerness):
            tensors.add(output)
        return tensors.num_bytes


@cache
def largest_block_bytes(model: ModelConfig, size_hw: tuple[int, int], *, precision: Precision, device: Device) -> int:
    """Bytes that the block of the backbone with the most activations saves for one image more."""
    fake = fake_detector(replace(model, gradient_checkpointing=False), device=device)
    stages: list[Any] = [
        module for module in fake.detector.backbone.model.modules() if hasattr(module, "grad_checkpointing")
    ]
    blocks = [block for stage in stages if hasattr(stage, "blocks") for block in stage.blocks]
    found: list[int] = []

    def measured(block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        tensors = SavedTensors(but=fake.detector.parameters())
        with tensors.hooks():
            type(block).forward(block, *(tensor.detach().requires_grad_() for tensor in inputs))
        found.append(tensors.num_bytes)

    handles = [block.register_forward_pre_hook(measured) for block in blocks]
    for batch_size in (2, 3):
        with fake.mode, _autocast(device, precision):
            fake.detector.backbone(fake.pixels(size_hw, batch_size=batch_size))
    for handle in handles:
        handle.remove()
    of_two, of_three = found[: len(blocks)], found[len(blocks) :]
    return max((more - few for few, more in zip(of_two, of_three, strict=True)), default=0)


@cache
def text_bytes(model: ModelConfig, *, precision: Precision) -> SavedBytes:
    """Of texts of the longest length, measured on four and on eight real ones.

    Raises:
        ValueError: the configuration names weights that are not there.
    """
    with torch.random.fork_rng(devices=[]):
        encoder = text_encoder(model)
        few, more = (_encoder_bytes(encoder, num_texts=count, precision=precision) for count in (4, 8))
    return SavedBytes(fixed=few - (more - few), each=(more - few) / 4)


def _encoder_bytes(encoder: TextEncoder, *, num_texts: int, precision: Precision) -> int:
    saved = SavedTensors(but=encoder.parameters())
    with saved.hooks(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        embeddings = encoder(longest_texts(encoder, num_texts))
    assert embeddings.requires_grad
    return saved.num_bytes


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one GPU at the peak of a step of one supervision type."""

    parts: dict[str, float]

    @property
    def total(self) -> float:
        """Of all parts."""
        return sum(self.parts.values())


def step_memory(
    model: ModelConfig,
    train: TrainConfig,
    supervision: Supervision,
    *,
    num_texts: int,
    world_size: int,
    device: Device = "cuda",
    batch_size: int | None = None,
) -> Memory:
    """Memory by part, at the peak of a step.

    Args:
        model: the network.
        train: the training.
        supervision: the type of the step.
        num_texts: distinct texts of the step over all processes, each of which encodes its share.
        world_size: number of processes.
        device: some operations go another way on a CPU.
        batch_size: images at a time, instead of those of the configuration.
    """
    settings = train.supervisions()[supervision]
    batch_size = batch_size or settings.batch_size
    images = settings.samples_per_worker(world_size)
    size = model_size(model)
    text = text_bytes(model, precision=train.precision)
    activations = activation_bytes(model, settings.canvas_hw, precision=train.precision, device=device)
    chunk_bytes = _CHUNK_BUFFERS * _FP32_BYTES * chunk_rows(1, device=torch.device(device))
    if supervision == "image_text":
        losses = _contrastive_bytes(model, train, num_texts=num_texts, images=images, num_images=images * world_size)
    else:  # embeddings of all texts, and the gradients of both sides
        network = image_flops(model, train, supervision, num_texts=num_texts, world_size=world_size)
        losses = (2 * num_texts + batch_size * network.num_anchors) * model.embed_dim * _FP32_BYTES
    parts = {
        "weights": size.num_parameters * _FP32_BYTES,
        # Data parallelism sends them from buckets of its own.
        "gradients": size.num_trained * _FP32_BYTES * (2 if world_size > 1 else 1),
        "optimizer": size.num_trained * _FP32_BYTES * 2,
        "moving average": 0 if train.optim.ema_decay is None else size.num_parameters * _FP32_BYTES,
        "activations": activations.of(batch_size),
        "texts": text.of(num_texts / world_size),
        "losses": losses + chunk_bytes,
        "context": CONTEXT_BYTES if device == "cuda" else 0.0,
    }
    return Memory(parts=parts)


def _contrastive_bytes(
    model: ModelConfig, train: TrainConfig, *, num_texts: int, images: int, num_images: int
) -> float:
    """Texts of all processes and proposals of this one with their gradients, and what they are compared by.

    Every text has its similarity to each local image, with a gradient and the number of the region that was the best; every
    caption too, and each local caption that to all images.
    """
    rows = 2 * num_texts + 2 * images * train.loss.num_proposals
    of_texts = num_texts * images * (2 * _FP32_BYTES + 1)
    of_captions = 4 * num_images * images * _FP32_BYTES
    return rows * model.embed_dim * _FP32_BYTES + of_texts + of_captions
