"""LVIS for training."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.sources.boxes.lvis import Lvis


def write(folder: Path, image: dict[str, object], *, name: str = "bow_(decorative_ribbons)") -> Lvis:
    content = {
        "images": [image],
        "annotations": [{"image_id": 9, "category_id": 1, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 1, "name": name}],
    }
    (folder / "lvis.json").write_text(json.dumps(content))
    return Lvis(annotations=folder / "lvis.json", images=folder)


def test_an_image_is_found_by_its_url_and_names_have_spaces(tmp_path: Path, noise: Callable[..., bytes]) -> None:
    (tmp_path / "train2017").mkdir()
    (tmp_path / "train2017" / "000000000009.jpg").write_bytes(noise())
    url = "http://images.cocodataset.org/train2017/000000000009.jpg"
    lvis = write(tmp_path, {"id": 9, "coco_url": url, "neg_category_ids": [], "not_exhaustive_category_ids": []})
    (image,) = lvis.read(0, 1)

    assert (image.sample.concepts, image.sample.boxes_xyxy) == (["bow (decorative ribbons)"], [(1, 2, 4, 6)])
    assert (lvis.name, lvis.vocabulary()) == ("lvis", ["bow (decorative ribbons)"])


def test_a_json_that_does_not_say_what_is_absent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lvis.json is no LVIS JSON: an image has no 'neg_category_ids'; read it as"):
        len(write(tmp_path, {"id": 9, "file_name": "000000000009.jpg"}))


def test_every_box_of_real_annotations_is_kept_or_counted(
    shared_data: Path, tmp_path: Path, noise: Callable[..., bytes]
) -> None:
    """With images of the right size for every third entry, named as v1 names them."""
    annotations = shared_data / "lvis_val_100" / "lvis_val_100.json"
    for image in json.loads(annotations.read_text())["images"][::3]:
        name = image["coco_url"].rpartition("/")[2]
        (tmp_path / name).write_bytes(noise(size=(image["width"], image["height"])))
    lvis = Lvis(annotations=annotations, images=tmp_path, max_side_px=64)
    images = list(lvis.read(0, 100))

    assert len(images) == 34
    num_boxes = sum(len(image.sample.labels) + sum(image.dropped_boxes.values()) for image in images)
    assert num_boxes == len(json.loads(annotations.read_text())["annotations"]) == 977
    assert {reason for image in images for reason in image.dropped_boxes} <= {"image_missing", "box_empty"}
    assert len(lvis.vocabulary()) == 1230
