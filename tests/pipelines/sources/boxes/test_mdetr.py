"""MDETR's JSON: spans become phrases, and one image with one caption is one sample."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.sources.boxes.mdetr import Mdetr

CAPTION = "A man in the red shirt holds it"


@pytest.fixture
def content() -> dict[str, Any]:
    return {
        "images": [
            {"id": 2, "file_name": "vg.jpg", "caption": CAPTION, "width": 40, "height": 30},
            {"id": 10, "file_name": "vg.jpg", "caption": CAPTION, "width": 40, "height": 30},
            {"id": 3, "file_name": "vg.jpg", "caption": "a man", "width": 40, "height": 30},
            {"id": 4, "file_name": "flickr.jpg", "caption": "a man", "width": 40, "height": 30},
            {"id": 5, "file_name": "gone.jpg", "caption": "a man", "width": 40, "height": 30},
        ],
        "annotations": [
            {"image_id": 2, "bbox": [1, 2, 10, 20], "tokens_positive": [[0, 5]]},
            {"image_id": 2, "bbox": [3, 2, 5, 6], "tokens_positive": [[17, 22], [9, 12], [13, 16]]},
            {"image_id": 10, "bbox": [1, 2, 10, 20], "tokens_positive": [[0, 5]]},
            {"image_id": 10, "bbox": [5, 2, 10, 20], "tokens_positive": [[2, 5]]},
            {"image_id": 10, "bbox": [5, 2, 10, 20], "tokens_positive": [[29, 31]]},
            {"image_id": 10, "bbox": [5, 2, 10, 20], "tokens_positive": []},
            {"image_id": 10, "bbox": [5, 2, 10, 20], "tokens_positive": [[29, 32]]},
            {"image_id": 10, "bbox": [5, 2, 10, 20], "tokens_positive": [[0, 5]], "iscrowd": 1},
            {"image_id": 3, "bbox": [50, 2, 10, 20], "tokens_positive": [[0, 5]]},
            {"image_id": 5, "bbox": [5, 2, 10, 20], "tokens_positive": [[0, 5]]},
            {"image_id": 99, "bbox": [5, 2, 10, 20], "tokens_positive": [[0, 5]]},
        ],
    }


@pytest.fixture
def mdetr(tmp_path: Path, content: dict[str, Any], noise: Callable[..., bytes]) -> Callable[..., Mdetr]:
    def write() -> Mdetr:
        for name in ("vg/vg.jpg", "flickr/flickr.jpg"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(noise())
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        path.write_text(json.dumps(content))
        return Mdetr(annotations=path, images=(tmp_path / "vg", tmp_path / "flickr"))

    return write


def test_spans_become_phrases_and_every_box_is_kept_or_counted(
    mdetr: Callable[..., Mdetr], content: dict[str, Any]
) -> None:
    source = mdetr()
    images = list(source.read(0, 9))
    first, second, third = images

    assert [image.key for image in images] == ["000000000002", "000000000003", "000000000004"]
    assert (first.sample.concepts, first.sample.caption) == (["man", "red shirt"], CAPTION)
    assert first.sample.boxes_xyxy == [(1, 2, 11, 22), (3, 2, 8, 8), (5, 2, 15, 22)]
    assert first.sample.labels == [0, 1, 0]
    assert first.dropped_boxes == {"duplicate_box": 1, "no_phrase": 3, "crowd": 1, "image_missing": 2}
    assert (second.dropped_boxes, third.sample.boxes_xyxy) == ({"box_outside_image": 1}, [])
    num_boxes = sum(len(image.sample.labels) + sum(image.dropped_boxes.values()) for image in images)
    assert num_boxes == len(content["annotations"])
    assert (source.supervision, source.vocabulary()) == ("grounding", ["man", "red shirt"])


def test_values_in_another_type_are_read(mdetr: Callable[..., Mdetr], content: dict[str, Any]) -> None:
    plain = list(mdetr().read(0, 9))
    for annotation in content["annotations"]:
        spans = [[float(side) for side in span] for span in annotation["tokens_positive"]]
        crowd = str(annotation.get("iscrowd", 0))
        annotation |= {"image_id": f"{annotation['image_id']:03d}", "tokens_positive": spans, "iscrowd": crowd}
    assert list(mdetr().read(0, 9)) == plain


def test_every_box_of_the_file_is_kept_or_counted(mdetr: Callable[..., Mdetr], content: dict[str, Any]) -> None:
    content["annotations"] += [
        {"image_id": 4, "tokens_positive": [[0, 5]]},
        {"image_id": 4, "tokens_positive": [[0, 5]], "bbox": [float("nan"), 1, 2, 3]},
    ]
    images = list(mdetr().read(0, 9))

    assert images[2].dropped_boxes == {"no_box": 1, "box_not_finite": 1}
    kept_or_counted = sum(len(image.sample.labels) + sum(image.dropped_boxes.values()) for image in images)
    assert kept_or_counted == len(content["annotations"])


def test_an_id_with_two_captions_is_refused(mdetr: Callable[..., Mdetr], content: dict[str, Any]) -> None:
    content["images"][2]["id"] = "2"
    with pytest.raises(ValueError, match=r"json: images\[2\] has the id '2' of another one; number them anew"):
        len(mdetr())


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("images", {"caption": 3}, r"images\[0\].caption: expected text, got 3"),
        ("images", {"id": "a/b"}, r"images\[0\].id: expected text of letters and digits, got 'a/b'"),
        ("annotations", {"bbox": [1, 2, 3]}, r"annotations\[0\].bbox: expected four numbers"),
        ("annotations", {"tokens_positive": None}, r"annotations\[0\].tokens_positive: expected a list, got None"),
        (
            "annotations",
            {"tokens_positive": [[1]]},
            r".*tokens_positive\[0\]: expected a list of length 2, got \[1\]",
        ),
    ],
)
def test_errors_name_the_file_and_the_entry(
    mdetr: Callable[..., Mdetr], content: dict[str, Any], section: str, change: dict[str, Any], message: str
) -> None:
    content[section][0].update(change)
    with pytest.raises(ValueError, match=f"json: ?{message}"):
        len(mdetr())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", r": expected an object, got \[\]: MDETR's JSON has images and annotations"),
        ('{"images": [{"id": 1, "file_name": "a"}], "annotations": []}', r"images\[0\] has no 'caption'"),
        ('{"images": [], "annotations": []}', "it has no images"),
    ],
)
def test_errors_of_the_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mixed.json").write_text(text)
    with pytest.raises(ValueError, match=f"mixed.json.*{message}"):
        len(Mdetr(annotations=tmp_path / "mixed.json", images=(tmp_path, tmp_path / "x")))
