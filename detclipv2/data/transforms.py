"""Geometry of training pictures: flip, resize, pad to a square canvas."""

import random
import re
from dataclasses import replace

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat

from detclipv2.config import SupervisionConfig
from detclipv2.data.decode import Sample

# A flip would make these words untrue.
_SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)


def names_a_side(sample: Sample) -> bool:
    """Whether a text of the sample says left or right."""
    return any(_SIDES.search(text) for text in [*sample.concepts, sample.caption or ""])


def _resized(sample: Sample, size_hw: tuple[int, int]) -> Sample:
    height, width = sample.image.shape[-2:]
    factor = torch.tensor([size_hw[1] / width, size_hw[0] / height]).repeat(2)
    image = F.resize(sample.image, list(size_hw), antialias=True)
    return replace(sample, image=image, boxes_xyxy=sample.boxes_xyxy * factor)


def flipped(sample: Sample) -> Sample:
    """The sample mirrored left to right."""
    boxes = BoundingBoxes(sample.boxes_xyxy, format=BoundingBoxFormat.XYXY, canvas_size=tuple(sample.image.shape[-2:]))
    mirrored = F.horizontal_flip(boxes).as_subclass(Tensor)
    return replace(sample, image=F.horizontal_flip(sample.image), boxes_xyxy=mirrored)


def fitted_size(size_hw: tuple[int, int], *, longer: float, shorter: float) -> tuple[int, int]:
    """The largest size of that aspect ratio whose sides do not exceed ``longer`` and ``shorter``; at least 1 pixel each."""
    factor = min(longer / max(size_hw), shorter / min(size_hw))
    return max(1, round(size_hw[0] * factor)), max(1, round(size_hw[1] * factor))


def canvas_size(size_hw: tuple[int, int], *, longer: int, shorter: int) -> tuple[int, int]:
    """Height and width of the canvas that a picture is padded to: it lies or stands as the picture does.

    The canvas depends on the picture alone, so that what the network says of it does not depend on its neighbours in a batch.
    """
    return (longer, shorter) if size_hw[0] > size_hw[1] else (shorter, longer)


def fit(sample: Sample, config: SupervisionConfig, *, rng: random.Random) -> Sample:
    """Flip and resize for training.

    Image-text pictures are resized to a square outright, since a crop could lose what the caption names (method U14);
    pictures with boxes keep their aspect ratio.
    """
    if rng.random() < config.flip and not names_a_side(sample):
        sample = flipped(sample)
    if sample.supervision == "image_text":
        return _resized(sample, (config.image_size, config.image_size))
    factor = rng.uniform(*config.scale_jitter)
    height, width = sample.image.shape[-2:]
    longer, shorter = config.sides_px
    return _resized(sample, fitted_size((height, width), longer=longer * factor, shorter=shorter * factor))


def pad_to_canvas(images: list[Tensor], canvas_hw: tuple[int, int]) -> Tensor:
    """Pictures [3, h, w], none larger than the canvas, as one float tensor [B, 3, H, W] in 0..1, zeros around."""
    canvas = torch.zeros(len(images), 3, *canvas_hw)
    for slot, image in zip(canvas, images, strict=True):
        slot[:, : image.shape[1], : image.shape[2]] = image.float() / 255
    return canvas
