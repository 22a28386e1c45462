"""ODVG lines: both flavours, what is dropped, and every error by its row."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.sources.boxes.odvg import OdvgDetection, OdvgGrounding

SIZE = {"height": 30, "width": 40}


@pytest.fixture
def odvg(tmp_path: Path, noise: Callable[..., bytes]) -> Callable[..., Any]:
    def write(kind: type, *lines: Any, **options: Any) -> Any:
        (tmp_path / "images").mkdir(exist_ok=True)
        for name in ("a.jpg", "b.jpg"):
            (tmp_path / "images" / name).write_bytes(noise())
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
        return kind(annotations=path, images=(tmp_path / "images",), **options)

    return write


def grounding(*regions: Any, filename: str = "a.jpg", caption: object = "a dog and his cats") -> dict[str, Any]:
    return {"filename": filename, **SIZE, "grounding": {"caption": caption, "regions": list(regions)}}


def detection(*instances: Any, filename: str = "a.jpg") -> dict[str, Any]:
    return {"filename": filename, **SIZE, "detection": {"instances": list(instances)}}


def test_grounding_has_one_box_a_region_or_several(odvg: Callable[..., Any]) -> None:
    source = odvg(
        OdvgGrounding,
        "",
        grounding(
            {"bbox": [1, 2, 9, 9], "phrase": "a dog", "tokens_positive": [[0, 5]]},
            {"bbox": [[2, 2, 8, 8], [3, 3, 90, 9]], "phrase": ["his cats", "on a mat"]},
            {"bbox": [[2, 2, 8, 8], [3, 3, 7, 7]], "phrase": "it"},
            {"bbox": [5, 5, 5, 9], "phrase": "dot"},
        ),
        grounding({"bbox": [1, 1, 5, 5], "phrase": "tree"}, filename="gone.jpg"),
        grounding({"bbox": [1, 1, 5, 5], "phrase": "Tree"}, filename="sub/b.jpg"),
    )
    first, second = source.read(0, 9)

    assert first.sample.concepts == ["dog", "cats on a mat"]
    assert first.sample.boxes_xyxy == [(1, 2, 9, 9), (2, 2, 8, 8), (3, 3, 40, 9)]
    assert (first.sample.labels, first.sample.caption) == ([0, 1, 1], "a dog and his cats")
    assert first.dropped_boxes == {"no_phrase": 2, "box_empty": 1, "image_missing": 1}
    assert (first.key, second.key) == ("000000002", "000000004")
    assert (source.supervision, source.vocabulary()) == ("grounding", ["cats on a mat", "dog", "dot", "tree"])


def test_detection_has_categories(odvg: Callable[..., Any]) -> None:
    source = odvg(
        OdvgDetection,
        detection({"bbox": [1, 2, 9, 9], "label": 3, "category": "traffic_light"}),
        detection(filename="b.jpg"),
    )
    first, second = source.read(0, 2)

    assert (first.sample.concepts, first.sample.caption) == (["traffic light"], None)
    assert (second.sample.concepts, second.sample.labels) == ([], [])
    assert (source.supervision, source.vocabulary()) == ("detection", ["traffic light"])
    assert list(source.read(1, 2)) == [second]


def test_every_box_is_kept_or_counted_with_no_box(odvg: Callable[..., Any]) -> None:
    instances = [
        {"category": 7},
        {"category": "dog", "bbox": []},
        {"category": "dog", "bbox": [[1, 2, "9", 9.5], [2, 2, 8, 8]]},
    ]
    regions = [
        {"phrase": "a dog"},
        {"phrase": "it", "bbox": None},
        {"phrase": "it", "bbox": [[1, 2, 9, 9], [2, 2, 8, 8]]},
    ]
    (first,) = odvg(OdvgDetection, detection(*instances)).read(0, 1)
    (second,) = odvg(OdvgGrounding, grounding(*regions)).read(0, 1)

    assert (first.sample.boxes_xyxy, first.dropped_boxes) == ([(1, 2, 9, 9.5), (2, 2, 8, 8)], {"no_box": 2})
    assert (second.sample.boxes_xyxy, second.dropped_boxes) == ([], {"no_box": 2, "no_phrase": 2})


def test_names_that_are_one_have_the_spelling_of_the_first(odvg: Callable[..., Any]) -> None:
    box = [1, 2, 9, 9]
    source = odvg(
        OdvgDetection,
        detection({"category": "Traffic light", "bbox": box}),
        detection(
            {"category": "traffic_light", "bbox": box}, {"category": " Traffic  light", "bbox": box}, filename="b.jpg"
        ),
    )
    _, image = source.read(0, 2)

    assert (image.sample.concepts, image.sample.labels) == (["Traffic light"], [0, 0])
    assert source.vocabulary() == ["Traffic light"]
    same = "names that differ in case, blanks or underscores alone are one"
    assert source.notes == (f"{source.annotations}: {same}: 'traffic light' as 'Traffic light'",)
    assert odvg(OdvgDetection, detection({"category": "cat", "bbox": box})).notes == ()


def test_a_mark_at_the_beginning_of_the_file_is_no_part_of_it(odvg: Callable[..., Any]) -> None:
    line = grounding({"bbox": [1, 2, 9, 9], "phrase": "dog"})
    plain, marked = odvg(OdvgGrounding, line), odvg(OdvgGrounding, "\ufeff" + json.dumps(line))

    assert list(marked.read(0, 1)) == list(plain.read(0, 1))
    assert marked.config == plain.config
    marked.annotations.write_text(json.dumps(line), encoding="utf-16")
    with pytest.raises(ValueError, match="jsonl is in UTF-16: save it as UTF-8"):
        marked.read_index()


def test_the_config_follows_every_line(odvg: Callable[..., Any]) -> None:
    line = grounding({"bbox": [1, 2, 9, 9], "phrase": "dog"})
    configs = [odvg(OdvgGrounding, line).config, odvg(OdvgGrounding, line).config, odvg(OdvgGrounding, line, "").config]
    assert configs[0] == configs[1] != configs[2]


@pytest.mark.parametrize(
    ("kind", "line", "message"),
    [
        (OdvgGrounding, "[", "row 2 is not JSON: .*; an ODVG file has one image a line"),
        (OdvgGrounding, "[]", r"row 2: expected an object, got \[\]: an ODVG file has one image a line"),
        (OdvgGrounding, detection(), "row 2 has no 'grounding': .*, and detection and grounding are read apart"),
        (OdvgDetection, grounding(), "row 2 has no 'detection'"),
        (OdvgGrounding, {"filename": "a.jpg", "grounding": {}}, "row 2: grounding has no 'caption'"),
        (OdvgGrounding, grounding(caption=None), "row 2: grounding.caption: expected text, got None"),
        (OdvgGrounding, grounding({"bbox": [1, 1, 5, 5]}), r"row 2: grounding.regions\[0\] has no 'phrase'"),
        (
            OdvgGrounding,
            grounding({"bbox": [1, 1, 5], "phrase": "a"}),
            r"grounding.regions\[0\].bbox: expected four",
        ),
        (
            OdvgGrounding,
            grounding({"bbox": [[1, 1, 5, 5], 3], "phrase": "a"}),
            r"\(x1, y1, x2, y2\) or a list of such, got",
        ),
        (
            OdvgGrounding,
            grounding({"bbox": [None], "phrase": "a b"}),
            r"regions\[0\].bbox\[0\]: expected a number or a",
        ),
        (
            OdvgDetection,
            detection({"bbox": [1, 1, 5, 5], "label": 3}),
            r"detection.instances\[0\] has no 'category'",
        ),
    ],
)
def test_errors_name_the_file_and_the_row(odvg: Callable[..., Any], kind: type, line: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"jsonl: ?.*{message}"):
        len(odvg(kind, "", line))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none.jsonl cannot be read"):
        len(OdvgGrounding(annotations=tmp_path / "none.jsonl", images=(tmp_path,)))
