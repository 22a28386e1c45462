"""Pascal-VOC XML: coordinates, odd files, and two real data sets."""

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.sources.boxes.pascal_voc import PascalVoc

SIZE = "<size><width>40</width><height>30</height><depth>3</depth></size>"


def item(name: str, *sides: object, more: str = "") -> str:
    box = "".join(f"<{tag}>{side}</{tag}>" for tag, side in zip(("xmin", "ymin", "xmax", "ymax"), sides, strict=False))
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


@pytest.fixture
def voc(tmp_path: Path, noise: Callable[..., bytes]) -> Callable[..., PascalVoc]:
    def write(body: str = "", *, stem: str = "one", image: str = "one.jpg", **options: Any) -> PascalVoc:
        for folder in ("Annotations", "JPEGImages"):
            (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / "JPEGImages" / image).write_bytes(noise())
        (tmp_path / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{body}</annotation>")
        return PascalVoc(annotations=tmp_path / "Annotations", images=(tmp_path / "JPEGImages",), **options)

    return write


def test_pixels_count_from_1_and_the_last_is_included(voc: Callable[..., PascalVoc]) -> None:
    body = SIZE + item("traffic_light", 1, 1, 40, 30) + item("dog", "3.0", 5, 3.5, 9) + item("dog", 11, 5, 12, 9)
    (image,) = voc(body).read(0, 1)

    assert image.sample.concepts == ["dog", "traffic light"]
    assert image.sample.boxes_xyxy == [(0, 0, 40, 30), (2, 4, 3.5, 9), (10, 4, 12, 9)]
    assert image.sample.labels == [1, 0, 0]


def test_every_dropped_box_has_a_reason(voc: Callable[..., PascalVoc]) -> None:
    body = (
        item("dog", 2, 2, 9, 9, more="<truncated>1</truncated>")
        + item("dog", 2, 2, 9, 9, more="<difficult>1</difficult>")
        + item("cat", 5, 5, 5, 5)
        + item("cat", 9, 5, 3, 9)
        + item("cat", 50, 5, 60, 9)
        + "<object><name>cat</name><polygon/></object>"
    )
    (image,) = voc(body).read(0, 1)
    assert image.sample.boxes_xyxy == [(1, 1, 9, 9)]
    assert image.dropped_boxes == {"difficult": 1, "box_empty": 2, "box_outside_image": 1, "no_box": 1}
    keep = voc(body, difficult="keep")
    assert len(next(keep.read(0, 1)).sample.boxes_xyxy) == 2
    assert (keep.config["difficult"], voc(body).config["difficult"]) == ("keep", "drop")
    assert keep.vocabulary() == ["cat", "dog"]


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>", "<size/>"])
def test_the_size_may_be_missing(voc: Callable[..., PascalVoc], size: str) -> None:
    assert next(voc(size + item("dog", 2, 2, 9, 9)).read(0, 1)).dropped_boxes == {}


def test_boxes_of_another_size_are_dropped(voc: Callable[..., PascalVoc]) -> None:
    (image,) = voc(SIZE.replace("40", "80") + item("dog", 2, 2, 9, 9)).read(0, 1)
    assert image.dropped_boxes == {"size_mismatch": 1}


def test_an_image_is_found_by_filename_or_by_the_name_of_the_xml(voc: Callable[..., PascalVoc]) -> None:
    voc("<filename>other.PNG</filename>" + item("a", 2, 2, 9, 9), stem="b.1", image="other.PNG")
    voc("<filename>wrong.jpg</filename>" + item("b", 2, 2, 9, 9), stem="c", image="c.JPG")
    source = voc("<filename>gone.jpg</filename>" + item("c", 2, 2, 9, 9) * 3, stem="d", image="c.JPG")
    images = list(source.read(0, 9))

    assert [(image.key, image.sample.concepts) for image in images] == [("b_1-705a9e96", ["a"]), ("c", ["b"])]
    assert images[0].dropped_boxes == {"image_missing": 3}


def test_names_of_any_script_and_length_give_keys_of_their_own(voc: Callable[..., PascalVoc]) -> None:
    for stem in ("猫", "狗", "x" * 90 + "1", "x" * 90 + "2"):
        source = voc(item("a", 2, 2, 9, 9), stem=stem, image=f"{stem}.jpg")
    keys = [image.key for image in source.read(0, 9)]
    assert len(set(keys)) == 4
    assert all(key.isascii() and "." not in key and len(key) <= 80 for key in keys)


def test_a_list_chooses_the_images(voc: Callable[..., PascalVoc], tmp_path: Path) -> None:
    for stem in ("a", "b", "c"):
        voc(item(stem, 2, 2, 9, 9), stem=stem, image=f"{stem}.jpg")
    (tmp_path / "train.txt").write_text("c  1\na -1\n\n")
    source = voc(item("a", 2, 2, 9, 9), stem="a", image="a.jpg", image_set=tmp_path / "train.txt")

    assert [image.key for image in source.read(0, 9)] == ["a", "c"]
    assert source.vocabulary() == ["a", "c"]
    (tmp_path / "train.txt").write_text("none\n")
    with pytest.raises(ValueError, match="none.xml cannot be read"):
        len(voc(image_set=tmp_path / "train.txt", max_side_px=64))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", "one.xml is not XML: "),
        ("<html/>", "one.xml begins with <html>; Pascal-VOC XML begins with <annotation>"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "one.xml declares a document type"),
        ("<annotation><object/></annotation>", "one.xml: object 0 has no <name>"),
        (f"<annotation>{item('a', 1, 2, 3)}</annotation>", "one.xml: object 0 has the ymax None; it must be a number"),
        (f"<annotation>{item('a', 1, 'x', 3, 4)}</annotation>", "object 0 has the ymin 'x'; it must be a number of"),
    ],
)
def test_errors_name_the_file_and_the_object(
    voc: Callable[..., PascalVoc], tmp_path: Path, text: str, message: str
) -> None:
    source = voc()
    (tmp_path / "Annotations" / "one.xml").write_text(text)
    with pytest.raises(ValueError, match=message):
        len(source)


def test_an_empty_folder_and_a_folder_without_images_are_named(voc: Callable[..., PascalVoc], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path} has no Pascal-VOC XML"):
        len(PascalVoc(annotations=tmp_path, images=(tmp_path,)))
    annotations = voc(item("a", 2, 2, 9, 9)).annotations
    with pytest.raises(ValueError, match=r"Annotations: 1 of 1 images not found; the first is 'one\.\*', looked for"):
        len(PascalVoc(annotations=annotations, images=(annotations,)))


@pytest.mark.parametrize(
    ("folder", "annotations", "images", "wanted", "dropped"),
    [
        ("raccoon", "annotations", "images", {"raccoon": 217}, {}),
        ("bccd/BCCD", "Annotations", "JPEGImages", {"RBC": 4153, "WBC": 372, "Platelets": 361}, {"box_empty": 2}),
    ],
)
def test_every_box_of_real_data_is_kept_or_counted(
    shared_data: Path, folder: str, annotations: str, images: str, wanted: dict[str, int], dropped: dict[str, int]
) -> None:
    root = shared_data / folder
    source = PascalVoc(annotations=root / annotations, images=(root / images,), max_side_px=32)
    num_boxes, num_dropped = Counter[str](), Counter[str]()
    for image in source.read(0, len(source)):
        num_boxes.update(image.sample.concepts[label] for label in image.sample.labels)
        num_dropped.update(image.dropped_boxes)

    assert num_boxes.total() + num_dropped.total() == sum(wanted.values()) + sum(dropped.values())
    assert (num_boxes, num_dropped) == (wanted, dropped)


@pytest.mark.parametrize(
    ("folder", "annotations", "images"),
    [("raccoon", "annotations", "images"), ("bccd/BCCD", "Annotations", "JPEGImages")],
)
def test_the_boxes_are_those_that_elementtree_counts(
    shared_data: Path, folder: str, annotations: str, images: str
) -> None:
    root = shared_data / folder
    wanted = sum(len(ET.parse(path).findall("object/bndbox")) for path in (root / annotations).glob("*.xml"))
    index = PascalVoc(annotations=root / annotations, images=(root / images,), max_side_px=31).read_index()
    assert sum(index.num_boxes) + sum(index.lost_boxes.values()) == wanted


def test_the_real_training_list_chooses(shared_data: Path) -> None:
    root = shared_data / "bccd" / "BCCD"
    image_set = root / "ImageSets" / "Main" / "train.txt"
    source = PascalVoc(annotations=root / "Annotations", images=(root / "JPEGImages",), image_set=image_set)
    assert len(source) == len(image_set.read_text().split()) < 364
