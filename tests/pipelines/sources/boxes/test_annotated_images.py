"""What every source with boxes does with an image and its boxes, shown on COCO JSON."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.sources.boxes.annotated_images import fit_box
from pipelines.sources.boxes.coco import Coco
from pipelines.sources.held_out_images import HeldOutImages, hash_images, held_out_images
from schemas.source_images import LostBoxes

NAN = float("nan")


@pytest.fixture
def source(tmp_path: Path, noise: Callable[..., bytes]) -> Callable[..., Coco]:
    """Images 1 to 5 of 40 x 30 pixels, image i with i boxes; some of them spoilt."""

    def write(*, broken: tuple[int, ...] = (), size: tuple[int, int] = (40, 30), **options: Any) -> Coco:
        (tmp_path / "images").mkdir(exist_ok=True)
        for i in range(1, 6):
            content = b"no image" if i in broken else noise(i)
            (tmp_path / "images" / f"{i:012d}.jpg").write_bytes(content)
        content = {
            "images": [
                {"id": i, "file_name": f"{i:012d}.jpg", "width": size[0], "height": size[1]} for i in range(1, 6)
            ],
            "annotations": [
                {"image_id": i, "category_id": 1, "bbox": [1, 1, 5, 5]} for i in range(1, 6) for _ in range(i)
            ],
            "categories": [{"id": 1, "name": "dog"}],
        }
        path = tmp_path / "annotations.json"
        path.write_text(json.dumps(content))
        return Coco(annotations=path, images=(tmp_path / "images",), **options)

    return write


@pytest.mark.parametrize(
    ("box", "wanted"),
    [
        ((1.0, 2.0, 3.0, 4.0), (1.0, 2.0, 3.0, 4.0)),
        ((-5.0, -5.0, 60.0, 60.0), (0.0, 0.0, 40.0, 30.0)),
        ((0.1, 0.0, 0.1 + 1.0, 5.0), (0.1, 0.0, 1.1, 5.0)),
        ((1.0, 1.0, 1.9, 9.0), "box_empty"),
        ((9.0, 1.0, 3.0, 9.0), "box_empty"),
        ((39.5, 1.0, 50.0, 9.0), "box_outside_image"),
        ((50.0, 1.0, 60.0, 9.0), "box_outside_image"),
        ((NAN, 1.0, 60.0, 9.0), "box_not_finite"),
    ],
)
def test_a_box_is_clipped_or_has_a_reason(box: tuple[float, ...], wanted: object) -> None:
    assert fit_box(box, (40, 30)) == wanted


@pytest.mark.parametrize("broken", [(1,), (3,), (5,), (2, 3), (1, 2, 4, 5)])
def test_boxes_of_images_that_cannot_be_read_are_counted(source: Callable[..., Coco], broken: tuple[int, ...]) -> None:
    images = list(source(broken=broken).read(0, 9))

    assert [int(image.key) for image in images] == [i for i in range(1, 6) if i not in broken]
    assert [len(image.sample.labels) for image in images] == [int(image.key) for image in images]
    assert sum(image.dropped_boxes.get("image_unreadable", 0) for image in images) == sum(broken)
    assert all(set(image.dropped_boxes) <= {"image_unreadable"} for image in images)


def test_what_a_range_without_any_image_of_use_lost_comes_alone(source: Callable[..., Coco]) -> None:
    coco = source(broken=(3, 4))

    assert list(coco.read(5, 9)) == []
    assert list(coco.read(2, 4)) == [LostBoxes(dropped_boxes={"image_unreadable": 7})]


def test_boxes_of_an_image_of_another_size_are_dropped(source: Callable[..., Coco]) -> None:
    images = list(source(size=(80, 60)).read(0, 5))

    assert [image.dropped_boxes for image in images] == [{"size_mismatch": i} for i in range(1, 6)]
    assert [image.sample.labels for image in images] == [[]] * 5


def test_images_are_held_out_by_name_and_by_hash(
    source: Callable[..., Coco], tmp_path: Path, noise: Callable[..., bytes]
) -> None:
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    (evaluation / "x.jpg").write_bytes(noise(3))  # the same bytes
    (evaluation / "y.png").write_bytes(noise(4, format="PNG", size=(80, 60)))  # the same image, larger
    hashes = held_out_images(hashes=hash_images(evaluation))
    both = HeldOutImages(coco_ids=frozenset({1, 77}), sha256=hashes.sha256, phashes=hashes.phashes)
    coco = source(held_out=both)
    images = list(coco.read(0, 5))

    assert [int(image.key) for image in images] == [2, 5]
    assert sum(image.dropped_boxes.get("held_out", 0) for image in images) == 1 + 3 + 4
    assert coco.config["held_out"]["num_pictures_by_name"] == 1
    assert coco.config["held_out"]["num_hashes"] == 2
    assert "held_out" not in source().config
