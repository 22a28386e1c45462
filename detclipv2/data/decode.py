"""One WebDataset record to one sample."""

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from detclipv2.config import Supervision


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A picture with its texts: the triplet of section 3.1 of arXiv:2304.04514, less the negatives."""

    key: str
    supervision: Supervision
    image: Tensor  # [3, H, W] uint8
    boxes_xyxy: Tensor  # [N, 4] in pixels of the picture
    labels: Tensor  # [N], index into concepts
    concepts: list[str]
    caption: str | None


def decode_sample(record: dict[str, Any]) -> Sample:
    """Decode ``<key>.jpg`` and ``<key>.json`` of a shard.

    Raises:
        ValueError: a member is missing or cannot be read; the message names the shard and the key.
    """
    where = f"{record.get('__url__', 'shard')}, key {record.get('__key__')!r}"
    missing = [suffix for suffix in ("jpg", "json") if suffix not in record]
    if missing:
        raise ValueError(
            f"{where}: member(s) {missing} missing; `verify_shard` in pipelines/stages/shards.py checks a shard"
        )
    try:
        annotation = json.loads(record["json"])
        return Sample(
            key=record["__key__"],
            supervision=annotation["supervision"],
            image=decode_image(torch.frombuffer(bytearray(record["jpg"]), dtype=torch.uint8), mode=ImageReadMode.RGB),
            boxes_xyxy=torch.tensor(annotation["boxes_xyxy"], dtype=torch.float32).reshape(-1, 4),
            labels=torch.tensor(annotation["labels"], dtype=torch.long),
            concepts=annotation["concepts"],
            caption=annotation["caption"],
        )
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise ValueError(f"{where}: cannot be decoded: {type(error).__name__}: {error}") from error
