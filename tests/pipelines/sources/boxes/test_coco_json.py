"""Instances JSON as other tools write it: values in other types, names that are one, categories without a box, and errors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.sources.boxes.coco import Coco, Lvis
from pipelines.sources.boxes.coco_json import read_coco
from pipelines.sources.boxes.coco_validation import CocoValidation

SIZE = {"width": 40, "height": 30}


@pytest.fixture
def content() -> dict[str, Any]:
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", **SIZE} for i in range(1, 6)],
        "annotations": [
            {"id": 10 * i + j, "image_id": i, "category_id": j, "bbox": [1, 2, 10, 12], "iscrowd": 0}
            for i in range(1, 6)
            for j in (1, 2)
        ],
        "categories": [{"id": 1, "name": "apple"}, {"id": 2, "name": "guitar"}],
    }


@pytest.fixture
def write(tmp_path: Path, content: dict[str, Any], noise: Callable[..., bytes]) -> Callable[..., Coco]:
    """Writes ``content`` beside five images of 40 x 30 pixels."""
    for i in range(1, 6):
        (tmp_path / f"{i}.jpg").write_bytes(noise())

    def write(kind: type[Coco] = Coco, encoding: str = "utf-8", **options: Any) -> Coco:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        path.write_text(json.dumps(content), encoding=encoding)
        return kind(annotations=path, images=(tmp_path,), **options)

    return write


def counts(source: Coco) -> tuple[int, dict[str, int]]:
    images = list(source.read(0, 99))
    dropped: dict[str, int] = {}
    for image in images:
        for reason, count in image.dropped_boxes.items():
            dropped[reason] = dropped.get(reason, 0) + count
    return sum(len(image.sample.labels) for image in images), dropped


def validation(source: Coco, folder: Path) -> dict[str, Any]:
    """The written annotations, told by names."""
    CocoValidation(sources=(source,)).write(folder, train_image_counts={"APPLE": 50, "apple ": 51})
    written = json.loads((folder / "annotations.json").read_text())
    name_of = {category["id"]: category["name"] for category in written["categories"]}
    return {
        "categories": [(category["name"], category["frequency"]) for category in written["categories"]],
        "boxes": [(box["image_id"], name_of[box["category_id"]]) for box in written["annotations"]],
        "absent": [[name_of[i] for i in image["neg_category_ids"]] for image in written["images"]],
    }


@pytest.mark.parametrize(
    "spelled", [{"image_id": str}, {"category_id": str}, {"iscrowd": str}, {"image_id": float}, {"iscrowd": bool}]
)
def test_values_in_another_type_are_read(
    write: Callable[..., Coco], content: dict[str, Any], spelled: dict[str, Callable[[int], object]]
) -> None:
    for annotation in content["annotations"]:
        annotation |= {key: kind(annotation[key]) for key, kind in spelled.items()}
    assert counts(write()) == (10, {})


def test_ids_and_sizes_of_images_may_be_text(write: Callable[..., Coco], content: dict[str, Any]) -> None:
    for image in content["images"]:
        image |= {key: str(image[key]) for key in ("id", "width", "height")}
    content["images"][0]["width"] = "41"
    source = write()

    assert [image.key for image in source.read(0, 2)] == ["000000000001", "000000000002"]
    assert counts(source) == (8, {"size_mismatch": 2})


def test_a_mark_at_the_beginning_of_the_file_is_no_part_of_it(write: Callable[..., Coco]) -> None:
    assert counts(write(encoding="utf-8-sig")) == (10, {})
    assert write(encoding="utf-8-sig").config["annotations_sha256"] == write().config["annotations_sha256"]
    with pytest.raises(ValueError, match="json is in UTF-16: save it as UTF-8"):
        len(write(encoding="utf-16"))


def test_boxes_that_are_none_are_counted(write: Callable[..., Coco], content: dict[str, Any]) -> None:
    boxes = [float("nan"), 2, 3, 4], [1, 2, 3, 1e400], [1, 2, "3", "4.5"], [], None
    for annotation, box in zip(content["annotations"], boxes, strict=False):
        annotation["bbox"] = box
    del content["annotations"][5]["bbox"]
    assert counts(write()) == (5, {"box_not_finite": 2, "no_box": 3})


@pytest.mark.parametrize("split", ["all", "train"])
def test_every_annotation_of_the_file_is_kept_or_counted(
    write: Callable[..., Coco], content: dict[str, Any], split: str
) -> None:
    content["images"].append({"id": 6, "file_name": "gone.jpg"})
    content["annotations"] += [
        {"id": 1, "image_id": image_id, "category_id": category_id, "bbox": [1, 2, 10, 12], "iscrowd": crowd}
        for image_id, category_id, crowd in [(6, 1, 0), (99, 1, 0), (1, 7, 0), (1, 1, "1"), (5, 1, 1), (5, 9, 0)]
    ]
    kept, dropped = counts(write(split=split))

    assert kept + sum(dropped.values()) == len(content["annotations"])
    assert (
        dropped
        == {
            "all": {"image_missing": 2, "unknown_category": 2, "crowd": 2},
            "train": {"image_missing": 2, "unknown_category": 1, "crowd": 1, "held_out": 4},
        }[split]
    )


def test_names_that_are_one_are_one_category(
    write: Callable[..., Coco], content: dict[str, Any], tmp_path: Path
) -> None:
    content["categories"] += [{"id": 3, "name": "Apple"}, {"id": 4, "name": "apple "}, {"id": 4, "name": "apple "}]
    for annotation, category_id in zip(content["annotations"], (1, 3, 3, 4, 4), strict=False):
        annotation["category_id"] = category_id
    source = write()

    assert source.vocabulary() == ["apple", "guitar"]
    assert [image.sample.concepts for image in source.read(0, 3)] == [["apple"], ["apple"], ["apple", "guitar"]]
    assert source.notes == (
        f"{source.annotations}: names that differ in case, blanks or underscores alone are one:"
        " 'Apple' as 'apple', 'apple ' as 'apple'",
    )
    written = validation(source, tmp_path / "validation")
    assert written["categories"] == [("apple", "f"), ("guitar", "r")]
    assert written["absent"] == [["guitar"], ["guitar"], [], [], []]


def test_names_may_be_numbers(write: Callable[..., Coco], content: dict[str, Any]) -> None:
    content["categories"] = [{"id": 1, "name": 7}, {"id": 2, "name": "8"}]
    assert write().vocabulary() == ["7", "8"]


@pytest.mark.parametrize("split", ["all", "held_out"])
def test_a_category_without_a_box_is_no_negative(
    write: Callable[..., Coco], content: dict[str, Any], tmp_path: Path, split: str
) -> None:
    content["categories"] += [{"id": 0, "name": "fruit"}, {"id": 3, "name": "pear"}]
    content["annotations"][0]["category_id"] = 3  # in a training image: novel for nobody, absent from the held-out one
    source = write(split=split)

    assert source.vocabulary() == ["apple", "guitar", "pear"]
    assert source.notes == (
        f"{source.annotations}: categories without a box are left out, for nobody verified that they are absent: 'fruit'",
    )
    written = validation(source, tmp_path / "validation")
    assert [name for name, _ in written["categories"]] == ["apple", "guitar", "pear"]
    assert written["absent"][-1] == ["pear"]


def test_an_lvis_file_keeps_its_own_word_on_absence(
    write: Callable[..., Coco], content: dict[str, Any], tmp_path: Path
) -> None:
    content["categories"] += [{"id": 3, "name": "pear", "synonyms": None, "def": None}, {"id": 4, "name": "fruit"}]
    for image in content["images"]:
        image |= {"neg_category_ids": [3], "not_exhaustive_category_ids": None}
    content["images"][0]["neg_category_ids"] = None
    source = write(Lvis)

    assert counts(source) == (10, {})
    assert source.vocabulary() == ["apple", "guitar", "pear"]
    assert validation(source, tmp_path / "validation")["absent"] == [[], ["pear"], ["pear"], ["pear"], ["pear"]]


def test_null_in_all_images_says_nothing_about_absence(write: Callable[..., Coco], content: dict[str, Any]) -> None:
    for image in content["images"]:
        image["neg_category_ids"] = None
    assert {image.absent for image in read_coco(write().annotations).images} == {None}


@pytest.mark.parametrize(
    ("section", "index", "change", "message"),
    [
        ("annotations", 3, {"category_id": None}, r"annotations\[3\].category_id: expected a whole number, got None"),
        ("annotations", 3, {"category_id": [1]}, r"annotations\[3\].category_id: expected a whole number, got \[1\]"),
        ("annotations", 3, {"image_id": 1.5}, r"annotations\[3\].image_id: expected a whole number, got 1.5"),
        ("annotations", 3, {"bbox": [1, 2, 3, None]}, r"annotations\[3\].bbox\[3\]: expected a number, got None"),
        (
            "annotations",
            3,
            {"bbox": [1, 2, 3, 4, 5]},
            r"annotations\[3\].bbox: expected four numbers .*, got \[1.0, 2.0",
        ),
        ("annotations", 3, {"iscrowd": "no"}, r"annotations\[3\].iscrowd: expected 0 or 1, got 'no'"),
        ("images", 1, {"id": 1}, r"images\[0\] and images\[1\] have one id, 1; number them anew"),
        ("images", 1, {"id": -1}, r"images\[1\].id: expected a whole number >= 0, got -1"),
        ("images", 1, {"width": "wide"}, r"images\[1\].width: expected a whole number, got 'wide'"),
        ("images", 1, {"coco_url": "http://[x"}, "the image with id 2 has a bad coco_url: "),
        ("images", 1, {"file_name": ["a"]}, r"images\[1\].file_name: expected text, got \['a'\]"),
        (
            "categories",
            1,
            {"id": 1},
            "the category id 1 has two names, 'apple' and 'guitar'; give each category an id of",
        ),
        ("categories", 1, {"name": None}, r"categories\[1\].name: expected text, got None"),
        ("categories", 1, {"name": " "}, r"categories\[1\].name: expected text that is not blank, got ' '"),
    ],
)
def test_errors_name_file_record_and_field(
    write: Callable[..., Coco], content: dict[str, Any], section: str, index: int, change: dict[str, Any], message: str
) -> None:
    content[section][index] |= change
    with pytest.raises(ValueError, match=f"json: {message}"):
        len(write())
