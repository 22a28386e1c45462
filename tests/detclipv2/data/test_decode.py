import io
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image

from detclipv2.data.decode import decode_sample

Annotation = Callable[..., dict[str, Any]]


def _jpeg(mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (12, 8), 128 if mode == "L" else (250, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


def _record(annotation: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "__key__": "0000002a",
        "__url__": "shards/00001.tar",
        "jpg": _jpeg(),
        "json": json.dumps(annotation).encode(),
    } | changes


def test_a_record(annotation: Annotation) -> None:
    boxes = [[0.0, 1.0, 5.5, 8.0], [2.0, 2.0, 4.0, 4.0]]
    sample = decode_sample(
        _record(annotation(boxes_xyxy=boxes, labels=[1, 0], concepts=["dog", "cat"], caption="two pets"))
    )

    assert sample.key == "0000002a"
    assert sample.supervision == "detection"
    assert sample.image.shape == (3, 8, 12)
    assert sample.image.dtype == torch.uint8
    assert sample.image[0].min() > 230 > 20 > sample.image[1:].max()
    assert sample.boxes_xyxy.tolist() == boxes
    assert sample.labels.tolist() == [1, 0]
    assert (sample.concepts, sample.caption) == (["dog", "cat"], "two pets")


def test_no_boxes_and_a_grey_picture(annotation: Annotation) -> None:
    sample = decode_sample(_record(annotation(boxes_xyxy=[], labels=[]), jpg=_jpeg("L")))

    assert sample.image.shape == (3, 8, 12)
    assert sample.boxes_xyxy.shape == (0, 4)
    assert sample.labels.dtype == torch.long


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jpg": b"no picture"}, "cannot be decoded: RuntimeError: "),
        ({"jpg": _jpeg()[:200]}, "cannot be decoded: RuntimeError: "),
        ({"json": b"{"}, "cannot be decoded: JSONDecodeError: Expecting"),
        ({"json": b"{}"}, "cannot be decoded: KeyError: 'supervision'"),
        ({"json": b"[]"}, "cannot be decoded: TypeError: "),
    ],
)
def test_a_damaged_record_is_named(annotation: Annotation, changes: dict[str, bytes], message: str) -> None:
    with pytest.raises(ValueError, match=f"^shards/00001.tar, key '0000002a': {message}"):
        decode_sample(_record(annotation(), **changes))


@pytest.mark.parametrize("member", ["jpg", "json"])
def test_a_missing_member_is_named(annotation: Annotation, member: str) -> None:
    record = _record(annotation())
    del record[member]

    with pytest.raises(ValueError, match=rf"^shards/00001.tar, key '0000002a': member\(s\) \['{member}'\] missing"):
        decode_sample(record)
