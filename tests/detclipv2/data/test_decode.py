import io
import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image

from detclipv2.data.decode import Sample, parse_sample

Annotation = Callable[..., dict[str, Any]]


def _decode(record: dict[str, Any]) -> Sample:
    return parse_sample(record, rng=random.Random(0)).decode()


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
    sample = _decode(_record(annotation(boxes_xyxy=boxes, labels=[1, 0], concepts=["dog", "cat"], caption="two pets")))

    assert sample.key == "0000002a"
    assert sample.supervision == "detection"
    assert sample.image.shape == (3, 8, 12)
    assert sample.image.dtype == torch.uint8
    assert sample.image[0].min() > 230 > 20 > sample.image[1:].max()
    assert sample.boxes_xyxy.tolist() == boxes
    assert sample.labels.tolist() == [1, 0]
    assert (sample.concepts, sample.caption) == (["dog", "cat"], "two pets")


def _pair(annotation: Annotation, *captions: str) -> dict[str, Any]:
    """An image-text record whose captions have themselves as their only phrases."""
    first, *others = ({"caption": caption, "concepts": [caption]} for caption in captions)
    pair = annotation(supervision="image_text", boxes_xyxy=[], labels=[]) | first
    return _record(pair | ({"other_captions": others} if others else {}))


def test_every_caption_of_an_image_is_drawn_as_often_with_its_phrases(annotation: Annotation) -> None:
    record = _pair(annotation, "a dog", "a pet", "an animal")
    drawn = [parse_sample(record, rng=random.Random(f"sample-{i}")) for i in range(3000)]
    counts = Counter(sample.caption for sample in drawn)

    assert all(sample.concepts == [sample.caption] for sample in drawn)
    assert set(counts) == {"a dog", "a pet", "an animal"}
    assert max(counts.values()) - min(counts.values()) < 200
    again = [parse_sample(record, rng=random.Random(f"sample-{i}")).caption for i in range(3000)]
    assert again == [sample.caption for sample in drawn]


def test_a_sample_with_one_caption_draws_nothing(annotation: Annotation) -> None:
    rng = random.Random(0)

    assert parse_sample(_pair(annotation, "a dog"), rng=rng).caption == "a dog"
    assert rng.getstate() == random.Random(0).getstate()


def test_no_boxes_and_a_grey_image(annotation: Annotation) -> None:
    sample = _decode(_record(annotation(boxes_xyxy=[], labels=[]), jpg=_jpeg("L")))

    assert sample.image.shape == (3, 8, 12)
    assert sample.boxes_xyxy.shape == (0, 4)
    assert sample.labels.dtype == torch.long


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jpg": b"no image"}, "cannot be decoded: ImageDecodingError: no image of a known format"),
        ({"jpg": _jpeg()[:200]}, "cannot be decoded: ImageDecodingError: Truncated"),
        ({"jpg": _jpeg()[:-4]}, "cannot be decoded: RuntimeError: "),
        ({"json": b"{"}, "cannot be decoded: JSONDecodeError: Expecting"),
        ({"json": b"{}"}, "cannot be decoded: KeyError: 'supervision'"),
        ({"json": b"[]"}, "cannot be decoded: AttributeError: "),
        ({"json": b'{"other_captions": 1}'}, "cannot be decoded: TypeError: "),
    ],
)
def test_a_damaged_record_is_named(annotation: Annotation, changes: dict[str, bytes], message: str) -> None:
    with pytest.raises(ValueError, match=f"^shards/00001.tar, key '0000002a': {message}"):
        _decode(_record(annotation(), **changes))


@pytest.mark.parametrize("member", ["jpg", "json"])
def test_a_missing_member_is_named(annotation: Annotation, member: str) -> None:
    record = _record(annotation())
    del record[member]

    with pytest.raises(ValueError, match=rf"^shards/00001.tar, key '0000002a': member\(s\) \['{member}'\] missing"):
        _decode(record)


def _photo(width: int, height: int, **options: Any) -> bytes:
    """Dark, with a light box around the middle: half of each side."""
    image = Image.new("RGB", (width, height), (20, 60, 20))
    image.paste((220, 200, 240), (width // 4, height // 4, 3 * width // 4, 3 * height // 4))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("least_hw", "expected_hw"),
    [
        (None, (301, 403)),
        ((151, 201), (301, 403)),  # a half would be too small
        ((150, 201), (151, 202)),
        ((150, 202), (301, 403)),
        ((76, 90), (151, 202)),
        ((75, 100), (76, 101)),
        ((1, 1), (38, 51)),
    ],
)
def test_an_image_is_decoded_no_larger_than_needed(
    annotation: Annotation, least_hw: tuple[int, int] | None, expected_hw: tuple[int, int]
) -> None:
    box = [403 / 4, 301 / 4, 403 * 3 / 4, 301 * 3 / 4]
    record = _record(annotation(boxes_xyxy=[box]), jpg=_photo(403, 301))
    encoded = parse_sample(record, rng=random.Random(0))
    assert encoded.size_hw == (301, 403)
    sample = encoded.decode(least_hw=least_hw)

    assert sample.image.shape == (3, *expected_hw)
    assert sample.image.dtype == torch.uint8
    assert sample.image.stride(0) == 1, "colours side by side, as the resizing likes them"
    rows, columns = (sample.image[2] > 120).nonzero().unbind(1)
    light = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert sample.boxes_xyxy[0].tolist() == pytest.approx([float(side) for side in light], abs=1.5)


def test_a_smaller_decoding_is_the_image_made_smaller(annotation: Annotation) -> None:
    encoded = parse_sample(_record(annotation(), jpg=_photo(400, 304)), rng=random.Random(0))
    whole, half = encoded.decode().image.float(), encoded.decode(least_hw=(152, 200)).image.float()

    assert (torch.nn.functional.avg_pool2d(whole, 2) - half).abs().mean() < 1


def test_a_cut_off_image_is_named_when_it_is_decoded_smaller(annotation: Annotation) -> None:
    encoded = parse_sample(_record(annotation(), jpg=_photo(400, 304)[:1500]), rng=random.Random(0))
    with pytest.raises(ValueError, match="^shards/00001.tar, key '0000002a': cannot be decoded: OSError: "):
        encoded.decode(least_hw=(10, 10))
