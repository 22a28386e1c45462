"""Image augmentation: flip, resize, crop, pad to a common canvas."""

import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchvision.ops import box_area, clip_boxes_to_image
from torchvision.transforms.v2 import functional as F

from detclipv2.config import SupervisionConfig
from detclipv2.data.decode import EncodedSample, Sample
from detclipv2.data.sides import mirrored_text

# Of a box's area: where a crop leaves less, what is left of the object may not tell what it is.
MIN_VISIBLE_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """What becomes of an image: resized, then cropped where it is larger than its canvas."""

    resized_hw: tuple[int, int]
    cropped_hw: tuple[int, int]  # no larger
    place: tuple[float, float] = (0.0, 0.0)  # of the crop, from 0 (top, left) to 1 (bottom, right)


def fitted_size(size_hw: tuple[int, int], *, longer: float, shorter: float) -> tuple[int, int]:
    """The largest size of that aspect ratio whose sides do not exceed ``longer`` and ``shorter``; at least 1 pixel each."""
    factor = min(longer / max(size_hw), shorter / min(size_hw))
    return max(1, round(size_hw[0] * factor)), max(1, round(size_hw[1] * factor))


def canvas_size(size_hw: tuple[int, int], *, longer: int, shorter: int) -> tuple[int, int]:
    """Height and width of the canvas that an image is padded to: landscape or portrait, as the image is.

    The canvas depends on the image alone, so that what the network says of it does not depend on its neighbours in a batch.
    """
    return (longer, shorter) if size_hw[0] > size_hw[1] else (shorter, longer)


def draw_geometry(size_hw: tuple[int, int], config: SupervisionConfig, *, rng: random.Random) -> Geometry:
    """Scale and crop of an image with boxes, which keeps its aspect ratio: large-scale jitter (arXiv:2012.07177).

    Args:
        size_hw: of the stored image.
        config: with ``scale_jitter``; above 1 the image outgrows its canvas, and a part of it is taken.
        rng: draws.
    """
    factor = rng.uniform(*config.scale_jitter)
    longer, shorter = config.sides_px
    resized = fitted_size(size_hw, longer=longer * factor, shorter=shorter * factor)
    canvas = canvas_size(size_hw, longer=longer, shorter=shorter)
    return Geometry(
        resized_hw=resized,
        cropped_hw=(min(resized[0], canvas[0]), min(resized[1], canvas[1])),
        place=(rng.random(), rng.random()),
    )


def fit(sample: EncodedSample, config: SupervisionConfig, *, rng: random.Random) -> Sample:
    """Decode, resize and flip for training.

    Image-text images are resized to a square outright, since a crop could lose what the caption names (method U14).
    An image is flipped only where its texts are known to be true of the mirrored one (``sides.py``).

    Raises:
        ValueError: the image cannot be decoded.
    """
    flip = rng.random() < config.flip
    if sample.supervision == "image_text":
        size = (config.image_size, config.image_size)
        geometry = Geometry(resized_hw=size, cropped_hw=size)
    else:
        geometry = draw_geometry(sample.size_hw, config, rng=rng)
    fitted = resized(sample.decode(least_hw=geometry.resized_hw), geometry)
    return (flipped(fitted) or fitted) if flip else fitted


def resized(sample: Sample, geometry: Geometry) -> Sample:
    """Crop and resize in one go.

    Boxes are cut off where the image is; those of which too little is left go, with the concepts that only they had.
    """
    height, width = sample.image.shape[-2:]
    # The crop in pixels of the image as it is; boxes go by the rounded numbers.
    crop_h = max(1, round(height * geometry.cropped_hw[0] / geometry.resized_hw[0]))
    crop_w = max(1, round(width * geometry.cropped_hw[1] / geometry.resized_hw[1]))
    top, left = round(geometry.place[0] * (height - crop_h)), round(geometry.place[1] * (width - crop_w))
    image = sample.image[:, top : top + crop_h, left : left + crop_w]
    scale = torch.tensor([geometry.cropped_hw[1] / crop_w, geometry.cropped_hw[0] / crop_h]).repeat(2)
    boxes = (sample.boxes_xyxy - torch.tensor([left, top]).repeat(2)) * scale
    image = F.resize(image, list(geometry.cropped_hw), antialias=True)
    if (crop_h, crop_w) == (height, width):
        return replace(sample, image=image, boxes_xyxy=boxes)
    visible = clip_boxes_to_image(boxes, geometry.cropped_hw)
    seen = box_area(visible) > MIN_VISIBLE_SHARE * box_area(boxes)
    return replace(_with_boxes(sample, seen), image=image, boxes_xyxy=visible[seen])


def flipped(sample: Sample) -> Sample | None:
    """The sample mirrored left to right, or None where it is not known what its texts would say."""
    *concepts, caption = (mirrored_text(text) for text in [*sample.concepts, sample.caption or ""])
    known = [text for text in concepts if text is not None]
    if caption is None or len(known) < len(concepts):
        return None
    width = sample.image.shape[-1]
    x1, y1, x2, y2 = sample.boxes_xyxy.unbind(-1)
    return replace(
        sample,
        image=F.horizontal_flip(sample.image),
        boxes_xyxy=torch.stack([width - x2, y1, width - x1, y2], dim=-1),
        concepts=known,
        caption=caption if sample.caption is not None else None,
    )


def pad_to_canvas(images: list[Tensor], canvas_hw: tuple[int, int]) -> Tensor:
    """Images [3, h, w] (uint8), none larger than the canvas, as one tensor [B, 3, H, W] (uint8), zeros around."""
    canvas = torch.zeros(len(images), 3, *canvas_hw, dtype=torch.uint8)
    for slot, image in zip(canvas, images, strict=True):
        slot[:, : image.shape[1], : image.shape[2]] = image
    return canvas


def _with_boxes(sample: Sample, kept: Tensor) -> Sample:
    """Less some boxes, and less the concepts that had those alone.

    Args:
        sample: its boxes are not looked at.
        kept: [N] bool.
    """
    labels = sample.labels.tolist()
    lost = set(labels) - set(sample.labels[kept].tolist())
    numbers = [number for number in range(len(sample.concepts)) if number not in lost]
    new = {number: position for position, number in enumerate(numbers)}
    return replace(
        sample,
        labels=torch.tensor([new[number] for number in sample.labels[kept].tolist()], dtype=torch.long),
        concepts=[sample.concepts[number] for number in numbers],
    )
