"""A detector of fake tensors: they have shapes, types and a device, but no numbers, so that no image is too large."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from detclipv2.build import build_detector
from detclipv2.config import ModelConfig, SupervisionConfig
from detclipv2.models.clip_text_encoder import ClipTextArchitecture, ClipTextEncoder
from detclipv2.models.detector import DetCLIPv2


@dataclass(frozen=True, kw_only=True)
class FakeDetector:
    """A detector in training mode, and the mode in which its tensors can be made."""

    detector: DetCLIPv2
    mode: FakeTensorMode
    device: str


@cache
def fake_detector(config: ModelConfig, *, device: Literal["cpu", "cuda"], checkpointing: bool) -> FakeDetector:
    """The image side of the detector that a configuration describes; no weights are read, and the texts' side is a stub.

    On "cuda" only the forward pass can be run without a GPU.

    Args:
        config: the network.
        device: where the tensors claim to be: some operations go another way on a CPU.
        checkpointing: stands for ``config.gradient_checkpointing``.
    """
    # A backbone is checked with real numbers when its normalisation is folded, so it is made with them.
    with torch.random.fork_rng(devices=[]):  # whoever counts in the middle of something keeps their random numbers
        stub = ClipTextEncoder(ClipTextArchitecture(width=8, num_layers=1, num_heads=1), embed_dim=config.embed_dim)
        detector = build_detector(
            replace(config, backbone_weights="random", gradient_checkpointing=checkpointing), text_encoder=stub
        ).train()
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        detector = detector.to_empty(device=device)
    return FakeDetector(detector=detector, mode=mode, device=device)


def canvas_hw(config: SupervisionConfig) -> tuple[int, int]:
    """Height and width of a lying image's canvas: all images of a type are padded to it, however small they are drawn."""
    longer, shorter = config.sides_px
    return shorter, longer


def normalised_pixels(fake: FakeDetector, size_hw: tuple[int, int], *, batch_size: int) -> Tensor:
    """What the backbone takes: [B, 3, H, W], sides padded as the detector does. Call it inside ``fake.mode``."""
    divisor = fake.detector.backbone.size_divisor
    height, width = (side + -side % divisor for side in size_hw)
    pixels = torch.empty(batch_size, 3, height, width, device=fake.device)
    return pixels.contiguous(memory_format=torch.channels_last)


@contextmanager
def autocast(device: str, precision: Literal["fp32", "bf16"]) -> Iterator[None]:
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
