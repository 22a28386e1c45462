"""LVIS v1 JSON from named boxes, worked by hand."""

import pytest

from pipelines.sources.boxes.lvis_format import LvisCategory, LvisImage, NamedBox, frequency_of, lvis_annotations

CATEGORIES = [
    LvisCategory(name="hot dog", definition="a sausage in a bun", synonyms=("hot dog", "frank")),
    LvisCategory(name="fox", definition="an animal", synonyms=("fox",)),
    LvisCategory(name="tent", definition="a shelter", synonyms=("tent",)),
]


def image(**changes: object) -> LvisImage:
    fields: dict[str, object] = {"file_name": "7.jpg", "width": 100, "height": 80, "boxes": ()}
    return LvisImage(**{**fields, **changes})  # type: ignore[arg-type]


def test_ids_boxes_and_counts() -> None:
    boxes = [
        NamedBox(name="fox", box_xyxy=(10, 20, 40, 60)),
        NamedBox(name="fox", box_xyxy=(0, 0, 5, 5)),
        NamedBox(name="hot dog", box_xyxy=(1.5, 2, 3, 4)),
    ]
    lvis = lvis_annotations(
        [image(), image(file_name="8.jpg", boxes=boxes, negatives=["tent"], not_exhaustive=["fox"])],
        categories=CATEGORIES,
        train_image_counts={"fox": 101},
        description="two images",
    )
    assert lvis["images"][1] == {
        "id": 2,
        "file_name": "8.jpg",
        "width": 100,
        "height": 80,
        "neg_category_ids": [3],
        "not_exhaustive_category_ids": [2],
    }
    assert lvis["annotations"][0] == {
        "id": 1,
        "image_id": 2,
        "category_id": 2,
        "bbox": [10, 20, 30, 40],
        "area": 1200,
        "segmentation": [[10, 20, 40, 20, 40, 60, 10, 60]],
    }
    assert lvis["annotations"][2]["bbox"] == [1.5, 2, 1.5, 2] and lvis["annotations"][2]["category_id"] == 1
    hot_dog, fox, tent = lvis["categories"]
    assert hot_dog == {
        "id": 1,
        "name": "hot dog",
        "synset": "hot_dog.n.01",
        "synonyms": ["hot dog", "frank"],
        "def": "a sausage in a bun",
        "image_count": 1,
        "instance_count": 1,
        "frequency": "r",
    }
    assert (fox["image_count"], fox["instance_count"], fox["frequency"]) == (1, 2, "f")
    assert (tent["image_count"], tent["instance_count"], tent["frequency"]) == (0, 0, "r")


@pytest.mark.parametrize(("count", "frequency"), [(0, "r"), (10, "r"), (11, "c"), (100, "c"), (101, "f")])
def test_frequency_boundaries_are_those_of_lvis(count: int, frequency: str) -> None:
    assert frequency_of(count) == frequency


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": [NamedBox(name="wolf", box_xyxy=(0, 0, 1, 1))]}, r"7.jpg: \['wolf'\] not among the 3 categories"),
        ({"negatives": ["wolf"]}, r"7.jpg: \['wolf'\] not among the 3 categories"),
        (
            {"boxes": [NamedBox(name="fox", box_xyxy=(0, 0, 1, 1))], "negatives": ["fox"]},
            r"7.jpg: \['fox'\] have boxes and are called absent",
        ),
    ],
)
def test_contradictions_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lvis_annotations([image(**changes)], categories=CATEGORIES, train_image_counts={}, description="")
