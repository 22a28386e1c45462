"""Damaged annotation files: every box is kept or counted, or an error names the file; nothing else happens."""

import copy
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.sources.boxes.annotated_images import AnnotatedImages, index_of
from pipelines.sources.boxes.coco import Coco, Lvis
from pipelines.sources.boxes.mdetr import Mdetr
from pipelines.sources.boxes.objects365 import Objects365
from pipelines.sources.boxes.odvg import OdvgDetection, OdvgGrounding

DEEP: Any = []
for _ in range(400):
    DEEP = [DEEP]
VALUES = st.sampled_from(
    [
        None, True, False, 0, 1, -1, 1.0, 1.5, 10**400, -(10**30), float("nan"), float("inf"), 2**63, "", " ", "_", "1", "1.0",
        "007", "abc", "\ud800", "\u0000", "é\u202e", "../a", "/", "http://[", "null", [], [1], [1, 2, 3, 4], ["1", 2.5, 3, 4],
        [[1, 2, 3, 4], []], [None], ["\udfff"], {}, {"id": 1}, DEEP,
    ]
)  # fmt: skip

COCO: dict[str, Any] = {
    "info": {"year": 2017},
    "images": [
        {"id": 1, "file_name": "a.jpg", "width": 40, "height": 30, "coco_url": "http://x/val2017/a.jpg"},
        {"id": 2, "file_name": "gone.jpg", "width": 40, "height": 30},
        {"id": 3, "file_name": "a.jpg"},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3.5, 4], "iscrowd": 0, "segmentation": [[1, 2, 3]]},
        {"id": 2, "image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "iscrowd": 1},
        {"id": 3, "image_id": 2, "category_id": 1, "bbox": [1, 2, 3, 4]},
        {"id": 4, "image_id": 3, "category_id": 7, "bbox": [1, 2, 3, 4]},
        {"id": 5, "image_id": 9, "category_id": 1, "bbox": [1, 2, 3, 4]},
    ],
    "categories": [{"id": 1, "name": "apple", "supercategory": "fruit"}, {"id": 2, "name": "red_pear"}],
}
LVIS = copy.deepcopy(COCO)
for _image in LVIS["images"]:
    _image |= {"neg_category_ids": [2], "not_exhaustive_category_ids": [1]}
LVIS["categories"][0] |= {"def": "a fruit", "synonyms": ["apple", "Malus"], "frequency": "r"}
MDETR: dict[str, Any] = {
    "images": [
        {"id": 1, "file_name": "a.jpg", "caption": "a dog and it", "width": 40, "height": 30},
        {"id": "b2", "file_name": "a.jpg", "caption": "a dog and it", "width": 40, "height": 30},
        {"id": 3, "file_name": "gone.jpg", "caption": "a cat"},
    ],
    "annotations": [
        {"image_id": 1, "bbox": [1, 2, 3, 4], "tokens_positive": [[0, 5]], "iscrowd": 0},
        {"image_id": 1, "bbox": [1, 2, 3, 4], "tokens_positive": [[10, 12]]},
        {"image_id": "b2", "bbox": [1, 2, 3, 4], "tokens_positive": [[0, 5]]},
        {"image_id": 3, "bbox": [1, 2, 3, 4], "tokens_positive": [[2, 5], [0, 1]]},
        {"image_id": 7, "bbox": [1, 2, 3, 4], "tokens_positive": [[2, 5]]},
    ],
}
SIZE = {"height": 30, "width": 40}
DETECTION = [
    {"filename": "a.jpg", **SIZE, "detection": {"instances": [{"bbox": [1, 2, 3, 4], "label": 0, "category": "dog"}]}},
    {
        "filename": "b.jpg",
        "detection": {"instances": [{"category": "dog"}, {"bbox": [[1, 2, 3, 4]], "category": "Dog"}]},
    },
]
GROUNDING = [
    {
        "filename": "a.jpg",
        **SIZE,
        "grounding": {
            "caption": "a dog, it",
            "regions": [
                {"bbox": [1, 2, 3, 4], "phrase": "a dog"},
                {"bbox": [[1, 2, 3, 4], [2, 3, 4, 5]], "phrase": ["a dog", "here"]},
                {"bbox": [1, 2, 3, 4], "phrase": "it"},
            ],
        },
    }
]


def num_annotations(text: str) -> int:
    return len(json.loads(text, strict=False)["annotations"])


def num_odvg(text: str, section: str, items: str) -> int:
    entries = [entry for line in text.split("\n") if line.strip() for entry in json.loads(line)[section][items]]
    boxes = [entry.get("bbox") for entry in entries]
    return sum(len(box) if box and isinstance(box[0], list) else 1 for box in boxes)


FORMATS: dict[str, tuple[type[Any], Any, Callable[[str], int]]] = {
    "coco": (Coco, COCO, num_annotations),
    "lvis": (Lvis, LVIS, num_annotations),
    "objects365": (Objects365, COCO, num_annotations),
    "mdetr": (Mdetr, MDETR, num_annotations),
    "odvg_detection": (OdvgDetection, DETECTION, lambda text: num_odvg(text, "detection", "instances")),
    "odvg_grounding": (OdvgGrounding, GROUNDING, lambda text: num_odvg(text, "grounding", "regions")),
}


def dumped(content: Any) -> bytes:
    """A JSON file, or one of JSON lines."""
    lines = content if isinstance(content, list) else [content]
    return "\n".join(json.dumps(line) for line in lines).encode()


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container with each of its keys."""
    items = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    return [place for key, item in items for place in [(value, key), *places(item)]]


def damage_values(content: Any, data: st.DataObject) -> bytes:
    content = copy.deepcopy(content)
    for _ in range(data.draw(st.integers(1, 3))):
        found = places(content)
        if not found:
            break
        container, key = found[data.draw(st.integers(0, len(found) - 1))]
        kind = data.draw(st.sampled_from(["replace", "replace", "delete", "duplicate", "text"]))
        if kind == "replace":
            container[key] = copy.deepcopy(data.draw(VALUES))
        elif kind == "delete":
            del container[key]
        elif kind == "duplicate" and isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        elif isinstance(container[key], str):
            container[key] += data.draw(st.text(st.characters(), max_size=3))
        elif isinstance(container[key], int | float):
            container[key] = str(container[key])
    return dumped(content)


def damage_bytes(content: Any, data: st.DataObject) -> bytes:
    text = bytearray(dumped(content))
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(text) - 1))
        text[position] = data.draw(
            st.sampled_from([0, 10, 34, 44, 58, 91, 93, 123, 125, 0xC3, 0xE9, 0xFF, *b"019eNa\\"])
        )
    kind = data.draw(st.sampled_from(["flip", "truncate", "bom", "again"]))
    if kind == "truncate":
        return bytes(text[: data.draw(st.integers(0, len(text)))])
    if kind == "bom":
        return data.draw(st.sampled_from([b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\0"])) + text
    if kind == "again":  # keys are there twice
        middle = text.find(b'"', 1 + data.draw(st.integers(0, len(text) - 2)))
        return bytes(text[:middle] + b'"id": 5, "bbox": [5, 5, 5, 5], "images": [], ' + text[middle:])
    return bytes(text)


def num_read(source: AnnotatedImages) -> int:
    index = index_of(source)
    handles = [handle for handles in index.handles for handle in handles]
    return sum(index.lost_boxes.values()) + sum(source.annotate(handle).num_boxes for handle in handles)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (40, 30)).save(folder / name)
    return folder


NUMBERS = itertools.count()  # files have distinct names, since an index is kept by its file's name


def check(content: bytes, name: str, folder: Path) -> None:
    kind, _, count = FORMATS[name]
    path = folder / f"damaged-{next(NUMBERS)}.json"
    path.write_bytes(content)
    message = ""
    num_boxes = None
    try:
        num_boxes = num_read(kind(annotations=path, images=(folder,)))
    except ValueError as error:
        message = str(error)
    path.unlink()
    if num_boxes is None:
        assert path.name in message and "\n" not in message
        return
    try:
        expected = count(content.decode("utf-8-sig", errors="replace"))
    except ValueError:  # what no record declares is not looked at, and may be no JSON
        return
    assert num_boxes == expected


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_not_damaged_is_read(name: str, folder: Path) -> None:
    kind, content, count = FORMATS[name]
    path = folder / f"{name}.json"
    path.write_bytes(dumped(content))
    assert num_read(kind(annotations=path, images=(folder,))) == count(dumped(content).decode()) > 2


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_values(name: str, folder: Path, data: st.DataObject) -> None:
    check(damage_values(FORMATS[name][1], data), name, folder)


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_bytes(name: str, folder: Path, data: st.DataObject) -> None:
    check(damage_bytes(FORMATS[name][1], data), name, folder)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("text", [b"", b"[" * 200_000, b'{"images":' * 100_000, b'{"images": ' + b"1" * 5000 + b"}"])
def test_files_of_another_kind(name: str, text: bytes, folder: Path) -> None:
    check(text, name, folder)


@pytest.mark.parametrize("name", ["coco", "lvis", "objects365", "mdetr"])
def test_fields_that_are_not_read_never_fail(name: str, folder: Path) -> None:
    kind, content, _ = FORMATS[name]
    content = copy.deepcopy(content)
    content["annotations"][0] |= {"area": float("nan"), "id": "x", "note": "\ud800", "attributes": DEEP}
    content |= {"licenses": 10**400}
    path = folder / f"unread-{name}.json"
    path.write_bytes(dumped(content))
    assert num_read(kind(annotations=path, images=(folder,))) == len(content["annotations"])
