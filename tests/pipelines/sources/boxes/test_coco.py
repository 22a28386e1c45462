"""COCO instances JSON: what becomes of every box, and every error by its message."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipelines.sources.boxes.coco import Coco, Lvis
from pipelines.sources.boxes.coco_validation import CocoValidation
from pipelines.sources.source import ValidationCounts
from schemas.source_images import LostBoxes
from schemas.training import TrainingSample

COCO_CCBY = Path(__file__).resolve().parents[5] / "shared" / "data" / "coco_ccby"


@pytest.fixture
def content() -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "seven.png"}, {"id": 3, "file_name": "three.jpg"}],
        "annotations": [
            {"image_id": 7, "category_id": 1, "bbox": [10, 20, 30, 40]},
            {"image_id": 7, "category_id": 2, "bbox": [90, -5, 60, 25]},
            {"image_id": 7, "category_id": 1, "bbox": [200, 20, 30, 40]},
            {"image_id": 7, "category_id": 1, "bbox": [10, 20, 0.5, 40]},
            {"image_id": 7, "category_id": 9, "bbox": [10, 20, 30, 40]},
            {"image_id": 7, "category_id": 2, "bbox": [10, 20, 30, 40], "iscrowd": 1},
        ],
        "categories": [{"id": 1, "name": "red_apple"}, {"id": 2, "name": "bear"}],
    }


@pytest.fixture
def coco(tmp_path: Path, content: dict[str, Any]) -> Callable[..., Coco]:
    """Writes ``content`` and its images, 120 x 80 and 16 x 16 pixels."""
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGBA", (120, 80), "red").save(images / "seven.png")
    Image.new("L", (16, 16), 128).save(images / "three.jpg")

    def write(**options: Any) -> Coco:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        path.write_text(json.dumps(content))
        return Coco(annotations=path, images=(images,), **options)

    return write


def test_boxes_are_clipped_and_every_dropped_one_has_a_reason(coco: Callable[..., Coco]) -> None:
    three, seven = coco().read(0, 2)

    assert (three.key, seven.key) == ("000000000003", "000000000007")
    assert three.sample == TrainingSample(supervision="detection", width=16, height=16, concepts=[])
    assert seven.sample == TrainingSample(
        supervision="detection",
        width=120,
        height=80,
        concepts=["bear", "red apple"],
        boxes_xyxy=[(10, 20, 40, 60), (90, 0, 120, 20)],
        labels=[1, 0],
    )
    assert seven.dropped_boxes == {"box_outside_image": 1, "box_empty": 1, "unknown_category": 1, "crowd": 1}
    assert three.dropped_boxes == {}


def test_images_are_made_smaller_with_their_boxes(coco: Callable[..., Coco]) -> None:
    small, large = coco(max_side_px=60).read(0, 2)

    assert (large.sample.width, large.sample.height) == (60, 40)
    assert large.sample.boxes_xyxy == [(5, 10, 20, 30), (45, 0, 60, 10)]
    assert (small.sample.width, small.sample.height) == (16, 16)
    for image in (small, large):
        with Image.open(io.BytesIO(image.jpeg)) as stored:
            assert (stored.format, stored.mode) == ("JPEG", "RGB")
            assert stored.size == (image.sample.width, image.sample.height)


def test_a_rotated_photo_is_stored_upright(coco: Callable[..., Coco]) -> None:
    source = coco()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter
    Image.new("RGB", (16, 8)).save(source.images[0] / "three.jpg", exif=exif)

    assert (next(source.read(0, 1)).sample.width, next(source.read(0, 1)).sample.height) == (8, 16)


def test_reading_gives_the_same_bytes_from_any_start(coco: Callable[..., Coco]) -> None:
    source = coco()

    assert list(source.read(0, 2))[1] == next(source.read(1, 2))


def test_boxes_of_a_missing_image_are_counted(coco: Callable[..., Coco], content: dict[str, Any]) -> None:
    content["images"].append({"id": 9, "file_name": "nine.jpg"})
    content["annotations"].append({"image_id": 9, "category_id": 1, "bbox": [1, 1, 5, 5]})
    source = coco()

    assert len(source) == 2
    assert next(source.read(0, 1)).dropped_boxes == {"image_missing": 1}


def test_every_fifth_image_is_held_out(coco: Callable[..., Coco], content: dict[str, Any]) -> None:
    content["images"] = [{"id": i, "file_name": f"{i}.jpg"} for i in range(11, 0, -1)]
    content["annotations"] = []
    train, held_out = coco(split="train"), coco(split="held_out")
    for i in range(1, 12):
        Image.new("L", (16, 16), i).save(train.images[0] / f"{i}.jpg")

    assert [image.key.lstrip("0") for image in held_out.read(0, 99)] == ["5", "10"]
    assert [image.key.lstrip("0") for image in train.read(0, 99)] == ["1", "2", "3", "4", "6", "7", "8", "9", "11"]


def test_the_config_follows_json_images_and_options(coco: Callable[..., Coco], content: dict[str, Any]) -> None:
    source = coco()
    before = source.config
    assert coco().config == before
    assert coco(max_side_px=60).config != before

    Image.new("RGB", (17, 16), "blue").save(source.images[0] / "three.jpg")
    assert source.config != before

    content["annotations"].pop()
    assert coco().config["annotations_sha256"] != before["annotations_sha256"]


def test_the_vocabulary_has_spaces_for_underscores(coco: Callable[..., Coco]) -> None:
    assert coco().vocabulary() == ["bear", "red apple"]


def read_validation(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "annotations.json").read_text())


def test_validation_is_lvis_with_every_other_category_absent(coco: Callable[..., Coco], tmp_path: Path) -> None:
    validation = CocoValidation(sources=(coco(),))

    assert validation.write(
        tmp_path / "validation", train_image_counts={"bear": 11, "red apple": 101}
    ) == ValidationCounts(
        num_images=2,
        num_boxes=2,
        dropped_boxes={"box_outside_image": 1, "box_empty": 1, "unknown_category": 1, "crowd": 1},
    )

    content = read_validation(tmp_path / "validation")
    assert [(category["name"], category["frequency"]) for category in content["categories"]] == [
        ("bear", "c"),
        ("red apple", "f"),
    ]
    three, seven = content["images"]
    assert (three["file_name"], three["neg_category_ids"]) == ("000000000003.jpg", [1, 2])
    # A crowd of bears and a sliver of an apple are there without a box: surplus detections of either are not judged.
    assert (seven["neg_category_ids"], seven["not_exhaustive_category_ids"]) == ([], [1, 2])
    assert [annotation["bbox"] for annotation in content["annotations"]] == [[10, 20, 30, 40], [90, 0, 30, 20]]
    names = sorted(path.name for path in (tmp_path / "validation" / "images").iterdir())
    assert names == ["000000000003.jpg", "000000000007.jpg"]


def test_an_lvis_file_says_itself_what_is_absent(
    coco: Callable[..., Coco], content: dict[str, Any], tmp_path: Path
) -> None:
    content["images"] = [
        {
            "id": 3,
            "coco_url": "http://x/val2017/three.jpg",
            "neg_category_ids": [2, 3],
            "not_exhaustive_category_ids": [1],
        }
    ]
    content["annotations"] = [{"image_id": 3, "category_id": 1, "bbox": [1, 1, 5, 5]}]
    content["categories"].append({"id": 3, "name": "cat", "def": "a feline", "synonyms": ["cat", "house_cat"]})
    CocoValidation(sources=(coco(),)).write(tmp_path / "validation", train_image_counts={})

    written = read_validation(tmp_path / "validation")
    assert written["categories"][1]["synonyms"] == ["cat", "house cat"]
    name_of = {category["id"]: category["name"] for category in written["categories"]}
    (image,) = written["images"]
    assert [name_of[i] for i in image["neg_category_ids"]] == ["bear", "cat"]
    assert [name_of[i] for i in image["not_exhaustive_category_ids"]] == ["red apple"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", r": expected an object, got \[\]: COCO instances JSON has images, annotations and categories"),
        (
            '{"images": [], "annotations": []}',
            "has no 'categories': COCO instances JSON has images, annotations and categories",
        ),
        ('{"images": [{"file_name": "a.jpg"}], "annotations": [], "categories": []}', r"images\[0\] has no 'id'"),
        (
            '{"images": [{"id": "x"}], "annotations": [], "categories": []}',
            r": images\[0\].id: expected a whole number, got 'x'",
        ),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "neither 'file_name' nor 'coco_url'"),
        (
            '{"images": [], "annotations": [{"image_id": 1}], "categories": []}',
            r"annotations\[0\] has no 'category_id'",
        ),
        (
            '{"images": [], "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2]}], "categories": []}',
            r"annotations\[0\].bbox: expected four numbers \(x, y, width, height\), got \[1.0, 2.0\]",
        ),
        (
            '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], "categories": []}',
            r"1 of 1 images not found; the first is 'a.jpg', looked for in",
        ),
    ],
)
def test_errors_name_the_file_and_the_key(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    path.write_text(text)

    with pytest.raises(ValueError, match=f"instances.json.*{message}"):
        len(Coco(annotations=path, images=(tmp_path,)))


def test_a_missing_json_and_a_broken_image_are_named(coco: Callable[..., Coco], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none.json cannot be read"):
        len(Coco(annotations=tmp_path / "none.json", images=(tmp_path,)))
    source = coco()
    (source.images[0] / "three.jpg").write_bytes(b"no image")
    assert list(source.read(0, 1)) == [], "no box is lost"
    (source.images[0] / "seven.png").write_bytes(b"no image")
    assert list(source.read(0, 2)) == [LostBoxes(dropped_boxes={"image_unreadable": 6})]


@pytest.mark.skipif(not COCO_CCBY.is_dir(), reason="the shared data (coco_ccby) is not there")
def test_every_box_of_real_photos_is_kept_or_counted() -> None:
    source = Coco(annotations=COCO_CCBY / "instances.json", images=(COCO_CCBY / "images",), max_side_px=64)
    images = list(source.read(0, len(source)))

    num_boxes = sum(len(image.sample.labels) + sum(image.dropped_boxes.values()) for image in images)
    assert (len(images), len(source.vocabulary()), num_boxes) == (123, 73, 1117)
    content = json.loads((COCO_CCBY / "instances.json").read_text())
    assert (len(content["images"]), len(content["annotations"])) == (123, 1117)
    assert max(max(image.sample.width, image.sample.height) for image in images) == 64


def write_lvis(folder: Path, image: dict[str, object], *, name: str = "bow_(decorative_ribbons)") -> Lvis:
    content = {
        "images": [image],
        "annotations": [{"image_id": 9, "category_id": 1, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 1, "name": name}],
    }
    (folder / "lvis.json").write_text(json.dumps(content))
    return Lvis(annotations=folder / "lvis.json", images=(folder,))


def test_an_image_is_found_by_its_url_and_names_have_spaces(tmp_path: Path, noise: Callable[..., bytes]) -> None:
    (tmp_path / "train2017").mkdir()
    (tmp_path / "train2017" / "000000000009.jpg").write_bytes(noise())
    url = "http://images.cocodataset.org/train2017/000000000009.jpg"
    lvis = write_lvis(tmp_path, {"id": 9, "coco_url": url, "neg_category_ids": [], "not_exhaustive_category_ids": []})
    (image,) = lvis.read(0, 1)

    assert (image.sample.concepts, image.sample.boxes_xyxy) == (["bow (decorative ribbons)"], [(1, 2, 4, 6)])
    assert (lvis.name, lvis.vocabulary()) == ("lvis", ["bow (decorative ribbons)"])


def test_a_json_that_does_not_say_what_is_absent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lvis.json is no LVIS JSON: an image has no 'neg_category_ids'; read it as"):
        len(write_lvis(tmp_path, {"id": 9, "file_name": "000000000009.jpg"}))


def test_every_box_of_real_annotations_is_kept_or_counted(
    shared_data: Path, tmp_path: Path, noise: Callable[..., bytes]
) -> None:
    """With images of the right size for every third entry, named as v1 names them."""
    annotations = shared_data / "lvis_val_100" / "lvis_val_100.json"
    for image in json.loads(annotations.read_text())["images"][::3]:
        name = image["coco_url"].rpartition("/")[2]
        (tmp_path / name).write_bytes(noise(size=(image["width"], image["height"])))
    lvis = Lvis(annotations=annotations, images=(tmp_path,), max_side_px=64)
    images = list(lvis.read(0, 100))

    assert len(images) == 34
    num_boxes = sum(len(image.sample.labels) + sum(image.dropped_boxes.values()) for image in images)
    assert num_boxes == len(json.loads(annotations.read_text())["annotations"]) == 977
    assert {reason for image in images for reason in image.dropped_boxes} <= {"image_missing", "box_empty"}
    assert len(lvis.vocabulary()) == 621  # of 1,230; of the others the file says nothing
