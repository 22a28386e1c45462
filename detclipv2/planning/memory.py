"""Memory of a training on one GPU, by part.

Activations are measured: the storages that the forward pass saves for the backward pass, on fake tensors that claim to be on a
GPU. What comes on top of the parts, such as the gradients that flow between layers, the kernels' work space and fragmentation,
is allowed for by `HEADROOM`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from detclipv2.build import build_detector
from detclipv2.config import ModelConfig, Supervision, TrainConfig
from detclipv2.ops.chunked import DEVICE_CHUNK_ELEMENTS
from detclipv2.planning.fake import autocast, canvas_hw, fake_detector, normalised_pixels
from detclipv2.planning.saved import SavedTensors
from detclipv2.planning.texts import text_cost

HEADROOM = 0.15  # of a GPU's memory: nothing of the plan may need it
CONTEXT_BYTES = 1e9  # of CUDA, its libraries and the communicators
_FP32_BYTES = 4
_CHUNK_BUFFERS = 3  # of logits that a chunked loss holds at once


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
    encoder_weights = "random" if model.text_encoder == "clip" else model.text_weights
    detector = build_detector(
        ModelConfig(**{**vars(model), "backbone_weights": "random", "text_weights": encoder_weights})
    )
    parameters = list(detector.parameters())
    return ModelSize(
        num_parameters=sum(parameter.numel() for parameter in parameters),
        num_trained=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    )


@dataclass(frozen=True, kw_only=True)
class ActivationBytes:
    """What the image side saves in a forward pass: it grows with the pictures."""

    fixed: float  # casts of the weights
    per_image: float
    per_image_recomputed: float  # with gradient checkpointing: of the largest block, while it is computed again

    def of(self, batch_size: int) -> float:
        """Peak of that many pictures."""
        return self.fixed + batch_size * (self.per_image + self.per_image_recomputed)


def activation_bytes(
    model: ModelConfig, size_hw: tuple[int, int], *, precision: Literal["fp32", "bf16"]
) -> ActivationBytes:
    """Measured with one picture and with two: the rest is a straight line."""
    one, two = (saved_bytes(model, size_hw, batch_size=count, precision=precision) for count in (1, 2))
    block = largest_block_bytes(model, size_hw, precision=precision) if model.gradient_checkpointing == "on" else 0
    return ActivationBytes(fixed=2 * one - two, per_image=two - one, per_image_recomputed=block)


@cache
def saved_bytes(
    model: ModelConfig, size_hw: tuple[int, int], *, batch_size: int, precision: Literal["fp32", "bf16"]
) -> int:
    """Bytes that the forward pass of backbone, neck and head saves, its outputs included."""
    fake = fake_detector(model, device="cuda", checkpointing=model.gradient_checkpointing)
    with fake.mode:
        saved = SavedTensors(but=fake.detector.parameters())
        pixels = normalised_pixels(fake, size_hw, batch_size=batch_size)
        with saved_tensors_hooks(saved.pack, lambda tensor: tensor), autocast("cuda", precision):
            maps = fake.detector.head(fake.detector.neck(fake.detector.backbone(pixels)))
        for output in (maps.embeddings, maps.box_deltas, maps.centerness):
            saved.pack(output)
        return saved.num_bytes


@cache
def largest_block_bytes(
    model: ModelConfig, size_hw: tuple[int, int], *, precision: Literal["fp32", "bf16"]
) -> int:
    """Bytes that the block of the backbone with the most activations saves for one picture."""
    fake = fake_detector(model, device="cuda", checkpointing="off")
    blocks = [
        block
        for stage in fake.detector.backbone.model.modules()
        if hasattr(stage, "grad_checkpointing") and isinstance(getattr(stage, "blocks", None), nn.Sequential)
        for block in stage.blocks
    ]
    found: list[int] = []

    def measured(block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        saved = SavedTensors(but=fake.detector.parameters())
        with saved_tensors_hooks(saved.pack, lambda tensor: tensor):
            type(block).forward(block, *(tensor.detach().requires_grad_() for tensor in inputs))
        found.append(saved.num_bytes)

    handles = [block.register_forward_pre_hook(measured) for block in blocks]
    with fake.mode, autocast("cuda", precision), torch.enable_grad():
        fake.detector.backbone(normalised_pixels(fake, size_hw, batch_size=1))
    for handle in handles:
        handle.remove()
    return max(found, default=0)


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
    batch_size: int | None = None,
) -> Memory:
    """Memory by part, at the peak of a step.

    Args:
        model: the network.
        train: the training.
        supervision: the type of the step.
        num_texts: distinct texts of the step over all processes, each of which encodes its share.
        world_size: number of processes.
        batch_size: pictures at a time, instead of those of the configuration.
    """
    settings = train.supervisions()[supervision]
    batch_size = batch_size or settings.batch_size
    images = settings.samples_per_worker(world_size)
    size = model_size(model)
    text = text_cost(model, precision=train.precision)
    activations = activation_bytes(model, canvas_hw(settings), precision=train.precision)
    parts = {
        "weights": size.num_parameters * _FP32_BYTES,
        # Data parallelism sends them from buckets of its own.
        "gradients": size.num_trained * _FP32_BYTES * (2 if world_size > 1 else 1),
        "optimizer": size.num_trained * _FP32_BYTES * 2,
        "average of weights": 0 if train.optim.ema_decay is None else size.num_parameters * _FP32_BYTES,
        "activations": activations.of(batch_size),
        "texts": text.fixed_bytes + text.saved_bytes * num_texts / world_size,
        "losses": _loss_bytes(model, train, supervision, num_texts=num_texts, images=images, world_size=world_size),
        "context": CONTEXT_BYTES,
    }
    return Memory(parts=parts)


def _loss_bytes(
    model: ModelConfig, train: TrainConfig, supervision: Supervision, *, num_texts: int, images: int, world_size: int
) -> float:
    """Texts of all processes with their gradient, chunks of logits, and what the losses keep beside the network's outputs."""
    texts = 2 * num_texts * model.embed_dim * _FP32_BYTES
    chunks = _CHUNK_BUFFERS * DEVICE_CHUNK_ELEMENTS * _FP32_BYTES
    if supervision != "image_text":
        return texts + chunks
    regions = 2 * images * train.loss.num_proposals * model.embed_dim * _FP32_BYTES
    # Similarities of every text and of every caption to each local picture, and the region that was the best.
    similarities = images * (num_texts * (2 * _FP32_BYTES + 1) + 2 * images * world_size * _FP32_BYTES)
    captions = 2 * images**2 * world_size * _FP32_BYTES  # gathered logits' local rows and their gradient
    return texts + chunks + regions + similarities + captions


def largest_batch_size(memories: Mapping[int, float], *, memory_bytes: float) -> int | None:
    """The largest of the tried batch sizes whose memory fits, or None."""
    return max((size for size, needed in memories.items() if needed <= memory_bytes * (1 - HEADROOM)), default=None)
