"""Which source reads a file, told by what is in it."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.build.build_config import BuildConfig
from pipelines.build.own_boxes import own_detection, own_grounding
from pipelines.sources.boxes.coco import Coco, Lvis
from pipelines.sources.boxes.flickr30k_entities import Flickr30kEntities
from pipelines.sources.boxes.mdetr import Mdetr
from pipelines.sources.boxes.objects365 import Objects365
from pipelines.sources.boxes.odvg import OdvgDetection, OdvgGrounding
from pipelines.sources.boxes.pascal_voc import PascalVoc


def coco(names: list[str], **image: Any) -> dict[str, Any]:
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    return {"images": [{"id": 1, "file_name": "1.jpg", **image}], "annotations": [], "categories": categories}


@pytest.mark.parametrize(
    ("content", "source"),
    [
        (coco(["dog"]), Coco),
        (coco(["dog"], neg_category_ids=[], not_exhaustive_category_ids=[]), Lvis),
        (coco(["Person", "Sneakers", "Other Shoes", "Hamimelon"]), Objects365),
    ],
)
def test_boxes_in_json_are_told_by_content(content: dict[str, Any], source: type, tmp_path: Path) -> None:
    (tmp_path / "boxes.json").write_text(json.dumps(content))

    assert type(own_detection(tmp_path / "boxes.json", images=(tmp_path,))) is source


def test_boxes_by_ending_and_folder(tmp_path: Path) -> None:
    lines = tmp_path / "x.jsonl"

    assert type(own_detection(lines, images=(tmp_path,))) is OdvgDetection
    assert type(own_detection(tmp_path, images=(tmp_path,))) is PascalVoc
    assert type(own_grounding(lines, images=(tmp_path,))) is OdvgGrounding
    assert type(own_grounding(tmp_path / "x.json", images=(tmp_path,))) is Mdetr
    assert type(own_grounding(tmp_path, images=(tmp_path,))) is Flickr30kEntities


def test_own_grounding_with_held_out_images(tmp_path: Path) -> None:
    (tmp_path / "lines.jsonl").write_text("")
    (tmp_path / "ids.txt").write_text("139\n")
    config = BuildConfig(grounding=(tmp_path / "lines.jsonl",), images=(tmp_path,), held_out=tmp_path / "ids.txt")
    dataset = config.dataset()

    (source,) = dataset.grounding
    assert isinstance(source, OdvgGrounding) and source.held_out == dataset.held_out
    assert dataset.held_out is not None and dataset.held_out.coco_ids == {139}
    assert (dataset.name, dataset.pairs, dataset.detection, dataset.validation) == ("lines", (), (), None)


def test_the_validation_set_holds_nothing_out_of_itself(tmp_path: Path) -> None:
    (tmp_path / "boxes.json").write_text(json.dumps(coco(["dog"])))
    (tmp_path / "ids.json").write_text("[1]")
    boxes = {"detection": (tmp_path / "boxes.json",), "images": (tmp_path,), "held_out": tmp_path / "ids.json"}
    for options in (boxes, {**boxes, "validation": tmp_path / "boxes.json"}):
        dataset = BuildConfig(**options).dataset()
        assert dataset.detection[0].held_out is not None
        assert dataset.validation.source.held_out is None


def test_a_held_out_list_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "lines.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"--held-out none\.txt: there is no such file"):
        BuildConfig(grounding=(tmp_path / "lines.jsonl",), images=(tmp_path,), held_out=Path("none.txt")).dataset()
