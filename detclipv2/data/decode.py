"""Image decoding: one WebDataset record to one sample, its image no larger than needed."""

import json
import random
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from detclipv2.config import Supervision
from detclipv2.data.tar_shards import REBUILD_HINT
from detclipv2.image_decoding import open_image


@dataclass(frozen=True, kw_only=True)
class _Annotated:
    key: str
    supervision: Supervision
    boxes_xyxy: Tensor  # [N, 4] in pixels of the image
    labels: Tensor  # [N], index into concepts
    concepts: list[str]
    caption: str | None


@dataclass(frozen=True, kw_only=True)
class Sample(_Annotated):
    """An image with its texts: the triplet of section 3.1 of arXiv:2304.04514, less the negatives."""

    image: Tensor  # [3, H, W] uint8


@dataclass(frozen=True, kw_only=True)
class EncodedSample(_Annotated):
    """A sample whose image is still encoded; boxes are in pixels of the stored image."""

    where: str  # shard and key, for messages
    jpeg: bytes
    size_hw: tuple[int, int]

    def decode(self, *, least_hw: tuple[int, int] | None = None) -> Sample:
        """Decode the image, where it is at least twice as large as needed at a half, a quarter or an eighth of its size.

        libjpeg computes the smaller image from the coefficients of the larger one, which takes less time than to decode and
        resize it; boxes are scaled with it. ``least_hw`` is the size that is needed, that of the stored image unless given.

        Raises:
            ValueError: the image cannot be read; the message names the shard and the key.
        """
        try:
            image = _decoded(self.jpeg, size_hw=self.size_hw, least_hw=least_hw or self.size_hw)
        except (ValueError, RuntimeError, OSError) as error:
            raise _undecodable(self.where, error) from error
        height, width = image.shape[-2:]
        scale = torch.tensor([width / self.size_hw[1], height / self.size_hw[0]]).repeat(2)
        shared: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(_Annotated)}
        return Sample(**shared | {"boxes_xyxy": self.boxes_xyxy * scale}, image=image)


def parse_sample(record: dict[str, Any], *, rng: random.Random) -> EncodedSample:
    """Read ``<key>.json`` of a record, and the size in the header of ``<key>.jpg``.

    Of several captions of an image ``rng`` draws one, all being equally likely, with its phrases; where there is one, nothing
    is drawn.

    Raises:
        ValueError: a member is missing or cannot be read; the message names the shard and the key.
    """
    where = f"{record.get('__url__', 'shard')}, key {record.get('__key__')!r}"
    missing = [suffix for suffix in ("jpg", "json") if suffix not in record]
    if missing:
        raise ValueError(f"{where}: member(s) {missing} missing; {REBUILD_HINT}")
    try:
        annotation = json.loads(record["json"])
        others = annotation.get("other_captions", ())  # since version 2 of the training sample
        texts = rng.choice([annotation, *others]) if others else annotation
        width, height = open_image(record["jpg"]).size
        return EncodedSample(
            where=where,
            key=record["__key__"],
            supervision=annotation["supervision"],
            jpeg=record["jpg"],
            size_hw=(height, width),
            boxes_xyxy=torch.tensor(annotation["boxes_xyxy"], dtype=torch.float32).reshape(-1, 4),
            labels=torch.tensor(annotation["labels"], dtype=torch.long),
            concepts=texts["concepts"],
            caption=texts["caption"],
        )
    except (ValueError, LookupError, RuntimeError, AttributeError, TypeError, OSError) as error:
        raise _undecodable(where, error) from error


def _decoded(jpeg: bytes, *, size_hw: tuple[int, int], least_hw: tuple[int, int]) -> Tensor:
    """Pixels [3, H, W], colours interleaved in memory, as torchvision resizes fastest."""
    if size_hw[0] < 2 * least_hw[0] or size_hw[1] < 2 * least_hw[1]:
        return decode_image(torch.frombuffer(bytearray(jpeg), dtype=torch.uint8), mode=ImageReadMode.RGB)
    # torchvision decodes faster, but to the full size alone.
    opened = open_image(jpeg)
    opened.draft("RGB", (least_hw[1], least_hw[0]))
    return torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)


def _undecodable(where: str, error: Exception) -> ValueError:
    return ValueError(f"{where}: cannot be decoded: {type(error).__name__}: {error}")
