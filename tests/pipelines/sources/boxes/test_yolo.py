"""YOLO's layout: where images and labels are, what a line means, and what damage does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.build.build_config import BuildConfig
from pipelines.build.own_boxes import own_detection
from pipelines.sources.boxes.coco_validation import CocoValidation
from pipelines.sources.boxes.yolo import Yolo
from pipelines.sources.boxes.yolo_yaml import find_data_yaml, read_data_yaml
from schemas.source_images import BoxedImage

YAML = "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: red_apple\n  1: no\n  2: 7\n"


@pytest.fixture
def yolo(tmp_path: Path, noise: Callable[..., bytes]) -> Callable[..., Yolo]:
    """Writes labels by image name, below images/ and labels/; None: no label file. Images are 40 x 30 pixels."""

    def write(labels: dict[str, str | None], *, yaml: str = YAML, **options: Any) -> Yolo:
        for i, (name, text) in enumerate(labels.items()):
            image = tmp_path / "images" / name
            label = (tmp_path / "labels" / name).with_suffix(".txt")
            for path in (image, label):
                path.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(noise(i))
            if text is not None:
                label.write_text(text)
        (tmp_path / "data.yaml").write_text(yaml)
        return Yolo(annotations=tmp_path / "data.yaml", **options)

    return write


def read(source: Yolo) -> list[BoxedImage]:
    return [image for image in source.read(0, len(source)) if isinstance(image, BoxedImage)]


def test_boxes_are_shares_of_the_sides(yolo: Callable[..., Yolo]) -> None:
    source = yolo({"train/a.jpg": "0 0.5 0.5 0.5 0.2\n1 0.25 0.5 0.5 1.0\n\n", "train/b.jpg": "", "train/c.jpg": None})
    a, b, c = read(source)

    assert a.sample.concepts == ["no", "red apple"]
    assert a.sample.boxes_xyxy == [(10, pytest.approx(12), 30, pytest.approx(18)), (0, 0, 20, 30)]
    assert (a.sample.labels, b.sample.labels, c.sample.labels) == ([1, 0], [], [])
    assert source.vocabulary() == ["no", "red apple"]
    assert source.notes[1:] == (
        f"{source.annotations}: categories without a box are left out, for nobody verified that they are absent: '7'",
        f"{source.annotations}: 1 images have no label file: they show no object",
    )


def test_a_class_with_boxes_in_the_other_part_alone_is_a_category_of_both(yolo: Callable[..., Yolo]) -> None:
    labels = {"train/a.jpg": "0 0.5 0.5 0.5 0.2\n", "val/b.jpg": "1 0.5 0.5 0.5 0.5\n"}
    assert yolo(labels).vocabulary() == yolo(labels, part="val").vocabulary() == ["no", "red apple"]


def test_a_polygon_is_the_box_around_it_and_keypoints_are_left_out(yolo: Callable[..., Yolo]) -> None:
    polygon = "0 0.25 0.1 0.5 0.2 0.75 0.9 0.3 0.4"
    (image,) = read(yolo({"train/a.jpg": polygon}))
    assert image.sample.boxes_xyxy == [(10, pytest.approx(3), 30, pytest.approx(27))]
    keypoints = "0 0.5 0.5 0.5 0.5 0.1 0.1 2 0.2 0.2 1"
    (image,) = read(yolo({"train/a.jpg": keypoints}, yaml=YAML + "kpt_shape: [2, 3]\n", max_side_px=64))
    assert image.sample.boxes_xyxy == [(10, 7.5, 30, 22.5)]


def test_every_dropped_box_has_a_reason(yolo: Callable[..., Yolo], tmp_path: Path) -> None:
    source = yolo(
        {"train/a.jpg": "9 .5 .5 .1 .1\n0 3 .5 .1 .1\n0 .5 .5 0 .1\n0 nan .5 .1 .1\n0 .5 .5 .1 .5\n0 120 80 60 40"}
    )
    (tmp_path / "labels" / "train" / "gone.txt").write_text("0 .5 .5 .1 .1\n7 .5 .5 .1 .1\n")
    (tmp_path / "labels" / "train" / "classes.txt").write_text("red apple\nno\n")
    (image,) = read(source)

    assert (len(image.sample.labels), image.dropped_boxes) == (
        1,
        {"unknown_category": 1, "box_outside_image": 2, "box_empty": 1, "box_not_finite": 1, "image_missing": 2},
    )
    folder = tmp_path / "labels" / "train"
    assert source.notes[2:] == (
        f"{source.annotations}: 1 label files have no image, first {folder / 'gone.txt'}",
        f"{source.annotations}: 1 text files hold no labels, first {folder / 'classes.txt'}",
    )


@pytest.mark.parametrize(
    ("yaml", "images"),
    [
        ("train: ../train/images\nval: ../valid/images\nnames: [a, b]\n", "train/images"),
        ("train: train\nnames: [a, b]\n", "train/images"),
        ("path: /somewhere/else\ntrain: images/train\nnames: [a, b]\n", "images/train"),
        ("path: data\ntrain: [images/a]\nnames: {0: a, 1: b}\n", "data/images/a"),
        ("train: images\\train\nnames: [a, b]\n", "images/train"),
        ("train: all.txt\nnames: [a, b]\n", "pictures"),
    ],
)
def test_where_images_are(yaml: str, images: str, tmp_path: Path, noise: Callable[..., bytes]) -> None:
    labels = images.replace("images", "labels")
    for folder in (images, labels):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / images / "x.PNG").write_bytes(noise(1))
    (tmp_path / images / "._x.PNG").write_bytes(b"a Mac's")
    (tmp_path / labels / "x.txt").write_text("1 .5 .5 .5 .5\n")
    (tmp_path / "all.txt").write_text("./pictures/x.PNG\n")
    (tmp_path / "data.yaml").write_text(yaml)
    (image,) = read(Yolo(annotations=tmp_path / "data.yaml"))
    assert (image.sample.concepts, len(image.sample.labels)) == (["b"], 1)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("names: [a", "data.yaml is not YAML: "),
        ("- a", "data.yaml has no 'names'"),
        ("train: images/train", "data.yaml has no 'names'"),
        ("names: a", "data.yaml has the names 'a'; they must be a list"),
        ("names: {x: a}", "names has 'x': 'a'; it must be a number with a name"),
        ("names: ['']", "names has 0: ''; it must be a number with a name"),
        ("names: [a]", "data.yaml: nothing that 'train' names is there"),
        ("names: [a]\ntrain: nowhere", "data.yaml: nothing that 'train' names is there"),
        ("names: [a]\ntrain: [{}]", "'train' has {}; it must be the path of a folder"),
        ("names: [a]\ntrain: empty", "data.yaml: there is no image in .*empty"),
    ],
)
def test_errors_of_the_yaml(yaml: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "data.yaml").write_text(yaml)
    with pytest.raises(ValueError, match=message):
        len(Yolo(annotations=tmp_path / "data.yaml"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("dog .5 .5 .1 .1", "a.txt: row 1, 'dog .5 .5 .1 .1', is not numbers; YOLO's are: class, x, y, width, height"),
        ("0.5 .5 .5 .1 .1", "has the class 0.5; it must be a whole number"),
        ("nan .5 .5 .1 .1", "has the class nan"),
        ("0 .5 .5 .1", "has 4 numbers; a box has 5, a polygon of n corners 1 \\+ 2n"),
        ("0 .5 .5 .1 .1 .9", "has 6 numbers"),
    ],
)
def test_errors_of_a_label_file(yolo: Callable[..., Yolo], line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        len(yolo({"train/a.jpg": line}))


def test_val_is_the_validation_set_and_without_it_every_fifth_image(yolo: Callable[..., Yolo], tmp_path: Path) -> None:
    box = "0 .5 .5 .5 .5"
    yolo({f"train/{i}.jpg": box for i in range(5)} | {"val/v.jpg": box})
    for path in (tmp_path, tmp_path / "data.yaml"):
        dataset = BuildConfig(detection=(path,)).dataset()
        assert isinstance(dataset.validation, CocoValidation)
        (train,), (val,) = dataset.detection, dataset.validation.sources
        assert (len(train), len(val), dataset.name) == (5, 1, tmp_path.name)  # type: ignore[arg-type]

    (tmp_path / "data.yaml").write_text(YAML.replace("images/val", "images/gone"))
    dataset = BuildConfig(detection=(tmp_path / "data.yaml",), max_side=99).dataset()
    assert [len(dataset.detection[0]), len(dataset.validation.sources[0])] == [4, 1]  # type: ignore[union-attr]
    assert any("what 'val' names, images/gone, is not there" in note for note in dataset.all_notes())
    (tmp_path / "data.yaml").write_text(YAML.replace("images/val", "images/train"))
    dataset = BuildConfig(detection=(tmp_path / "data.yaml",), max_side=98).dataset()
    assert [len(dataset.detection[0]), len(dataset.validation.sources[0])] == [4, 1]  # type: ignore[union-attr]
    assert any("'val' names images of 'train', so it holds nothing out" in note for note in dataset.all_notes())


def test_which_paths_are_yolo(tmp_path: Path) -> None:
    assert find_data_yaml(tmp_path) is None
    assert find_data_yaml(tmp_path / "x.YML") == tmp_path / "x.YML"
    (tmp_path / "data.yaml").write_text(YAML)
    assert type(own_detection(tmp_path, images=())) is Yolo
    assert read_data_yaml(tmp_path / "data.yaml").names == {0: "red apple", 1: "no", 2: "7"}


VALID = b"0 0.5 0.5 0.5 0.25\n1 0.25 0.5 0.25 1.0\n2 0.1 0.1 0.2 0.2 0.3 0.1 0.4 0.4\n"


def damaged(valid: bytes) -> st.SearchStrategy[bytes]:
    """Some bytes replaced, put in or cut out."""
    piece = st.one_of(
        st.binary(max_size=6), st.sampled_from([b"\n", b" ", b"-", b"nan", b"1e999", b"9", b"[", b": ", b"<a>"])
    )
    change = st.tuples(st.integers(0, len(valid)), st.integers(0, 8), piece)

    def apply(changes: list[tuple[int, int, bytes]]) -> bytes:
        content = valid
        for start, length, new in changes:
            content = content[:start] + new + content[start + length :]
        return content

    return st.lists(change, min_size=1, max_size=4).map(apply)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=damaged(VALID))
def test_a_damaged_label_file_loses_no_row_or_is_named(
    content: bytes, yolo: Callable[..., Yolo], tmp_path: Path
) -> None:
    source = yolo({"train/a.jpg": "0 .5 .5 .5 .5"}, max_side_px=20 + len(content))
    (tmp_path / "labels" / "train" / "a.txt").write_bytes(content)
    try:
        index = source.read_index()
    except ValueError as error:
        assert "a.txt" in str(error)  # noqa: PT017
        return
    ((handle,),) = index.handles
    num_rows = sum(bool(line.strip()) for line in content.decode().removeprefix("\ufeff").splitlines())
    image = source._boxed_image("a", source.resizer((tmp_path / "images" / "train" / "a.jpg").read_bytes()), [handle])
    assert len(image.sample.labels) + sum(image.dropped_boxes.values()) == num_rows


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=damaged(YAML.encode()))
def test_a_damaged_yaml_is_read_or_named(content: bytes, yolo: Callable[..., Yolo], tmp_path: Path) -> None:
    source = yolo({"train/a.jpg": "0 .5 .5 .5 .5"})
    (tmp_path / "data.yaml").write_bytes(content)
    try:
        index = source.read_index()
    except ValueError as error:
        assert "data.yaml" in str(error) or "a.txt" in str(error)  # noqa: PT017
        return
    assert sum(index.num_boxes) + sum(index.lost_boxes.values()) <= 1
