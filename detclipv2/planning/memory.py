"""Memory of a training on one GPU, by part.

Activations are measured: the storages that the forward pass saves for the backward pass, on fake tensors that claim to be on a
GPU. What comes on top of the parts, such as the gradients that flow between layers, the kernels' work space and fragmentation,
is allowed for by `HEADROOM`.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from detclipv2.build import build_detector
from detclipv2.config import ModelConfig, Supervision, TrainConfig
from detclipv2.ops.chunked import chunk_rows
from detclipv2.planning.fake import autocast, canvas_hw, fake_detector, normalised_pixels
from detclipv2.planning.saved import SavedTensors
from detclipv2.planning.texts import text_cost

HEADROOM = 0.15  # of a GPU's memory: nothing of the plan may need it
CONTEXT_BYTES = 1e9  # of CUDA, its libraries and the communicators
_FP32_BYTES = 4
Precision = Literal["fp32", "bf16"]
Device = Literal["cpu", "cuda"]
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
    with torch.random.fork_rng(devices=[]):
        detector = build_detector(replace(model, backbone_weights="random", text_weights=encoder_weights))
    parameters = list(detector.parameters())
    return ModelSize(
        num_parameters=sum(parameter.numel() for parameter in parameters),
        num_trained=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    )


@dataclass(frozen=True, kw_only=True)
class ActivationBytes:
    """What the image side saves in a forward pass: it grows with the images."""

    fixed: float  # casts of the weights
    per_image: float
    per_image_recomputed: float  # with gradient checkpointing: of the largest block, while it is computed again
    num_anchors: int  # of an image

    def of(self, batch_size: int) -> float:
        """Peak of that many images."""
        return self.fixed + batch_size * (self.per_image + self.per_image_recomputed)


def activation_bytes(
    model: ModelConfig, size_hw: tuple[int, int], *, precision: Precision, device: Device
) -> ActivationBytes:
    """Measured with two images and with three: the rest is a straight line, while of one some copies are views."""
    two, three = (saved(model, size_hw, batch_size=count, precision=precision, device=device) for count in (2, 3))
    block = 0
    if model.gradient_checkpointing:
        block = largest_block_bytes(model, size_hw, precision=precision, device=device)
    return ActivationBytes(
        fixed=3 * two.num_bytes - 2 * three.num_bytes,
        per_image=three.num_bytes - two.num_bytes,
        per_image_recomputed=block,
        num_anchors=two.num_anchors,
    )


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What a forward pass leaves."""

    num_bytes: int
    num_anchors: int  # of an image


@cache
def saved(
    model: ModelConfig, size_hw: tuple[int, int], *, batch_size: int, precision: Precision, device: Device
) -> Saved:
    """What the forward pass of backbone, neck and head saves, its outputs included."""
    fake = fake_detector(model, device=device, checkpointing=model.gradient_checkpointing)
    with fake.mode:
        tensors = SavedTensors(but=fake.detector.parameters())
        pixels = normalised_pixels(fake, size_hw, batch_size=batch_size)
        with saved_tensors_hooks(tensors.pack, lambda tensor: tensor), autocast(device, precision):
            maps = fake.detector.head(fake.detector.neck(fake.detector.backbone(pixels)))
        for output in (maps.embeddings, maps.box_deltas, maps.centerness):
            tensors.pack(output)
        return Saved(num_bytes=tensors.num_bytes, num_anchors=maps.embeddings.shape[1])


@cache
def largest_block_bytes(model: ModelConfig, size_hw: tuple[int, int], *, precision: Precision, device: Device) -> int:
    """Bytes that the block of the backbone with the most activations saves for one image more."""
    fake = fake_detector(model, device=device, checkpointing=False)
    stages: list[Any] = [
        module for module in fake.detector.backbone.model.modules() if hasattr(module, "grad_checkpointing")
    ]
    blocks = [block for stage in stages if hasattr(stage, "blocks") for block in stage.blocks]
    found: list[int] = []

    def measured(block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        tensors = SavedTensors(but=fake.detector.parameters())
        with saved_tensors_hooks(tensors.pack, lambda tensor: tensor):
            type(block).forward(block, *(tensor.detach().requires_grad_() for tensor in inputs))
        found.append(tensors.num_bytes)

    handles = [block.register_forward_pre_hook(measured) for block in blocks]
    for batch_size in (2, 3):
        with fake.mode, autocast(device, precision):
            fake.detector.backbone(normalised_pixels(fake, size_hw, batch_size=batch_size))
    for handle in handles:
        handle.remove()
    of_two, of_three = found[: len(blocks)], found[len(blocks) :]
    return max((more - few for few, more in zip(of_two, of_three, strict=True)), default=0)


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
    text = text_cost(model, precision=train.precision)
    activations = activation_bytes(model, canvas_hw(settings), precision=train.precision, device=device)
    chunk = chunk_rows(1, device=torch.device(device), chunk_elements=None)
    parts = {
        "weights": size.num_parameters * _FP32_BYTES,
        # Data parallelism sends them from buckets of its own.
        "gradients": size.num_trained * _FP32_BYTES * (2 if world_size > 1 else 1),
        "optimizer": size.num_trained * _FP32_BYTES * 2,
        "moving average": 0 if train.optim.ema_decay is None else size.num_parameters * _FP32_BYTES,
        "activations": activations.of(batch_size),
        "texts": text.fixed_bytes + text.saved_bytes * num_texts / world_size,
        "losses": _contrastive_bytes(
            model, train, num_texts=num_texts, images=images, num_images=images * world_size, chunk_elements=chunk
        )
        if supervision == "image_text"
        else _alignment_bytes(
            model, num_texts=num_texts, num_regions=batch_size * activations.num_anchors, chunk_elements=chunk
        ),
        "context": CONTEXT_BYTES if device == "cuda" else 0.0,
    }
    return Memory(parts=parts)


def _alignment_bytes(model: ModelConfig, *, num_texts: int, num_regions: int, chunk_elements: int) -> float:
    """Embeddings of all texts, the gradients of both sides, and a chunk of logits."""
    rows = 2 * num_texts + num_regions
    return (rows * model.embed_dim + _CHUNK_BUFFERS * chunk_elements) * _FP32_BYTES


def _contrastive_bytes(
    model: ModelConfig, train: TrainConfig, *, num_texts: int, images: int, num_images: int, chunk_elements: int
) -> float:
    """Texts of all processes and proposals of this one with their gradients, what they are compared by, and a chunk.

    Every text has its similarity to each local image, with a gradient and the number of the region that was the best; every
    caption too, and each local caption that to all images.
    """
    rows = 2 * num_texts + 2 * images * train.loss.num_proposals
    of_texts = num_texts * images * (2 * _FP32_BYTES + 1)
    of_captions = 4 * num_images * images * _FP32_BYTES
    return (rows * model.embed_dim + _CHUNK_BUFFERS * chunk_elements) * _FP32_BYTES + of_texts + of_captions
