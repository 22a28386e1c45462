"""Which source reads a file, told by what is in it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipelines.build.build_config import BuildConfig
from pipelines.build.own_boxes import own_detection, own_grounding
from pipelines.sources.boxes.coco import Coco, Lvis
from pipelines.sources.boxes.coco_validation import CocoValidation
from pipelines.sources.boxes.flickr30k_entities import Flickr30kEntities
from pipelines.sources.boxes.mdetr import Mdetr
from pipelines.sources.boxes.objects365 import Objects365
from pipelines.sources.boxes.odvg import OdvgDetection, OdvgGrounding
from pipelines.sources.boxes.pascal_voc import PascalVoc
from schemas.source_images import LostBoxes


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


def write_odvg(folder: Path) -> Path:
    region = {"phrase": "a dog", "bbox": [0, 0, 4, 4]}
    line = {"filename": "d.png", "grounding": {"caption": "a dog", "regions": [region]}}
    (folder / "lines.jsonl").write_text(json.dumps(line))
    Image.new("L", (8, 8)).save(folder / "d.png")
    return folder / "lines.jsonl"


def test_own_grounding_with_held_out_images(tmp_path: Path) -> None:
    write_odvg(tmp_path)
    (tmp_path / "ids.txt").write_text("139\n")
    config = BuildConfig(grounding=(tmp_path / "lines.jsonl",), images=(tmp_path,), held_out=tmp_path / "ids.txt")
    dataset = config.dataset()

    (source,) = dataset.grounding
    assert isinstance(source, OdvgGrounding) and source.held_out == dataset.held_out
    assert dataset.held_out is not None and dataset.held_out.coco_ids == {139}
    assert (dataset.name, dataset.pairs, dataset.detection, dataset.validation) == ("lines", (), (), None)


def write_coco(folder: Path, num: int, name: str = "boxes.json") -> Path:
    """COCO JSON of so many small images, with a box each."""
    content = coco(["dog"])
    content["images"] = [{"id": i, "file_name": f"{i}.png"} for i in range(1, num + 1)]
    content["annotations"] = [{"image_id": i, "category_id": 1, "bbox": [0, 0, 4, 4]} for i in range(1, num + 1)]
    for i in range(1, num + 1):
        Image.new("L", (8, 8), 10 * i).save(folder / f"{i}.png")
    (folder / name).write_text(json.dumps(content))
    return folder / name


def test_the_validation_set_holds_nothing_out_of_itself(tmp_path: Path) -> None:
    boxes = write_coco(tmp_path, 5)
    (tmp_path / "ids.json").write_text("[1]")
    given: dict[str, Any] = {"detection": (boxes,), "images": (tmp_path,), "held_out": tmp_path / "ids.json"}
    for options in (given, {**given, "validation": boxes}):
        dataset = BuildConfig(**options).dataset()
        assert isinstance(dataset.validation, CocoValidation)
        assert [source.held_out for source in dataset.validation.sources] == [None]
        (source,) = dataset.detection
        assert isinstance(source, Coco) and source.held_out is not None and source.held_out.coco_ids == {1}


def test_every_fifth_image_of_each_source_is_held_out_and_few_images_are_all_trained_on(tmp_path: Path) -> None:
    for name, num in (("a", 10), ("b", 5), ("c", 4)):
        (tmp_path / name).mkdir()
        write_coco(tmp_path / name, num)
    dataset = BuildConfig(
        detection=tuple(tmp_path / name / "boxes.json" for name in "abc"), images=tuple(tmp_path / n for n in "abc")
    ).dataset()

    assert isinstance(dataset.validation, CocoValidation)
    assert [len(source) for source in dataset.detection] == [8, 4, 4]
    assert [len(source) for source in dataset.validation.sources] == [2, 1]
    assert [source.name for source in dataset.detection] == ["coco", "coco_2", "coco_3"]
    assert [note for note in dataset.all_notes() if "held out" in note] == [
        f"{tmp_path}/c/boxes.json: 4 images, fewer than 5: none is held out; training has no validation unless --validation "
        "is given"
    ]


def test_validation_of_any_format_and_alone(tmp_path: Path) -> None:
    for i in range(2):
        Image.new("L", (8, 8)).save(tmp_path / f"{i}.png")
        box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox>"
        xml = f"<annotation><object><name>dog</name>{box}</object></annotation>"
        (tmp_path / f"{i}.xml").write_text(xml)
    dataset = BuildConfig(validation=tmp_path, images=(tmp_path,), name="x").dataset()

    assert isinstance(dataset.validation, CocoValidation)
    assert [type(source) for source in dataset.validation.sources] == [PascalVoc]
    assert (dataset.detection, dataset.grounding, dataset.pairs) == ((), (), ())
    counts = dataset.validation.write(tmp_path / "out", train_image_counts={})
    assert (counts.num_images, counts.num_boxes) == (2, 2)


def test_a_held_out_list_must_be_there(tmp_path: Path) -> None:
    write_odvg(tmp_path)
    with pytest.raises(ValueError, match=r"--held-out none\.txt: there is no such file"):
        BuildConfig(grounding=(tmp_path / "lines.jsonl",), images=(tmp_path,), held_out=Path("none.txt")).dataset()


@pytest.mark.parametrize("where", ["detection", "validation"])
def test_annotations_of_no_image_are_an_error_before_anything_runs(where: str, tmp_path: Path) -> None:
    boxes = write_coco(tmp_path, 5)
    content = json.loads(boxes.read_text())
    for annotation in content["annotations"]:
        annotation["image_id"] += 100
    (tmp_path / "wrong.json").write_text(json.dumps(content))
    options: dict[str, Any] = {"detection": (boxes,), "images": (tmp_path,)}
    options |= (
        {"detection": (tmp_path / "wrong.json",)} if where == "detection" else {"validation": tmp_path / "wrong.json"}
    )
    message = r"wrong.json: none of its 5 boxes is of an image that is there \(image_missing 5\)"
    with pytest.raises(ValueError, match=message):
        BuildConfig(**options).dataset()


def test_images_of_the_validation_set_leave_all_training_data(tmp_path: Path) -> None:
    boxes = write_coco(tmp_path, 5)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "copy.png").write_bytes((tmp_path / "2.png").read_bytes())
    content = coco(["dog"])
    content["images"][0] |= {"file_name": "copy.png"}
    content["annotations"] = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4]}]
    (tmp_path / "val.json").write_text(json.dumps(content))
    grounding = write_odvg(tmp_path)
    (tmp_path / "d.png").write_bytes((tmp_path / "2.png").read_bytes())
    dataset = BuildConfig(
        detection=(boxes,),
        grounding=(grounding,),
        validation=tmp_path / "val.json",
        images=(tmp_path, tmp_path / "other"),
    ).dataset()

    assert dataset.held_out is not None
    images = list(dataset.detection[0].read(0, 5))
    assert [getattr(image, "key", "").lstrip("0") for image in images] == ["1", "3", "4", "5"]
    assert sum(image.dropped_boxes.get("held_out", 0) for image in images) == 1
    assert list(dataset.grounding[0].read(0, 5)) == [LostBoxes(dropped_boxes={"held_out": 1})]
    assert dataset.held_out.all_sha256 == {hashlib.sha256((tmp_path / "2.png").read_bytes()).hexdigest()}
    config = dataset.held_out.config
    assert (config["num_files"], config["num_hashes"]) == (1, 0)


def test_a_file_given_twice_is_an_error(tmp_path: Path) -> None:
    boxes = write_coco(tmp_path, 5)
    with pytest.raises(ValueError, match=r"--detection .*boxes.json: it is given twice"):
        BuildConfig(detection=(boxes, boxes), images=(tmp_path,)).dataset()
