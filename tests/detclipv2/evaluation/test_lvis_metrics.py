import json
from pathlib import Path
from typing import Any

import pytest

from detclipv2.evaluation.lvis_metrics import LvisMetrics, evaluate_lvis

SHARED = Path(__file__).parents[4] / "shared/data/lvis_val_100"


def _write(folder: Path, *, images: list[dict[str, Any]], annotations: list[dict[str, Any]], **category: Any) -> Path:
    path = folder / "annotations.json"
    categories = [
        {"id": 3, "name": "yak", "frequency": "r", "synonyms": ["yak"]},
        {"id": 1, "name": "cat", "frequency": "f", "synonyms": ["cat"]},
        {"id": 2, "name": "bow_(weapon)", "frequency": "c", "synonyms": ["bow_(weapon)", "longbow"]},
    ]
    sizes = {"width": 100, "height": 100}
    path.write_text(
        json.dumps(
            {
                "images": [
                    {"neg_category_ids": [], "not_exhaustive_category_ids": [], **sizes, **image} for image in images
                ],
                "annotations": [
                    {"id": index, "area": row["bbox"][2] * row["bbox"][3], **row}
                    for index, row in enumerate(annotations)
                ],
                "categories": [{**row, **category} for row in categories],
            }
        )
    )
    return path


def _box(image_id: int, category_id: int, x: float = 10) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "bbox": [x, 10, 20, 20]}


def _detection(image_id: int, category_id: int, score: float, x: float = 10) -> dict[str, Any]:
    return {**_box(image_id, category_id, x), "score": score}


def _evaluate(path: Path, detections: list[dict[str, Any]], boxed_concepts: tuple[str, ...] = ("cat",)) -> LvisMetrics:
    return evaluate_lvis(detections, annotations_path=path, boxed_concepts=boxed_concepts)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data/lvis_val_100 beside the repository")
def test_reproduces_lvis_api() -> None:
    expected = json.loads((SHARED / "expected_lvis_api_0.5.3.json").read_text())["300"]
    metrics = _evaluate(SHARED / "lvis_val_100.json", json.loads((SHARED / "synthetic_dets.json").read_text()))

    assert metrics.lvis_ap_300 == pytest.approx(expected["AP"], abs=1e-9)
    assert metrics.lvis_ap50_300 == pytest.approx(expected["AP50"], abs=1e-9)
    assert metrics.lvis_ap75_300 == pytest.approx(expected["AP75"], abs=1e-9)
    assert metrics.lvis_apr_300 == pytest.approx(expected["APr"], abs=1e-9)
    assert metrics.lvis_apc_300 == pytest.approx(expected["APc"], abs=1e-9)
    assert metrics.lvis_apf_300 == pytest.approx(expected["APf"], abs=1e-9)
    # No image has more than 300 of these detections and no category more than 10,000, so that neither cap binds.
    assert metrics.most_detections_per_image <= 300
    assert metrics.fixed_ap_10000 == metrics.lvis_ap_300


def test_perfect_detections_have_ap_1(tmp_path: Path) -> None:
    path = _write(tmp_path, images=[{"id": 1}], annotations=[_box(1, 1), _box(1, 3, x=60)])
    metrics = _evaluate(path, [_detection(1, 1, 0.9), _detection(1, 3, 0.8, x=60)])

    caps = [("lvis", 300), ("fixed", 10000)]
    averages = [f"{name}_{metric}_{cap}" for name, cap in caps for metric in ("ap", "ap50", "ap75", "apr", "apf")]
    counts = {"num_images": 1, "num_detections": 2, "most_detections_per_image": 2}
    assert metrics.to_dict() == pytest.approx({**dict.fromkeys([*averages, "base_ap50", "novel_ap50"], 1.0), **counts})
    assert metrics.lvis_apc_300 is None  # the common category has no box here
    assert metrics.ap50_by_category == pytest.approx({"cat": 1.0, "yak": 1.0})
    assert metrics.novel_categories == ("yak",)


def test_iou_thresholds(tmp_path: Path) -> None:
    """A box shifted by a fifth has IoU 16 / 24 = 0.667: right at 0.50, 0.55, 0.60 and 0.65, wrong at the other six."""
    path = _write(tmp_path, images=[{"id": 1}], annotations=[_box(1, 1)])
    metrics = _evaluate(path, [_detection(1, 1, 0.9, x=14)])

    assert metrics.lvis_ap50_300 == pytest.approx(1.0)
    assert metrics.lvis_ap75_300 == 0.0
    assert metrics.lvis_ap_300 == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("second_image", "expected_ap50"),
    [
        ({"neg_category_ids": [1]}, 0.5),  # known to have no cat: the better-scored detection is a false positive
        ({}, 1.0),  # nobody looked for cats: the detection does not count
        (
            {"neg_category_ids": [1], "not_exhaustive_category_ids": [1]},
            1.0,
        ),  # some cats may not be annotated: forgiven
    ],
)
def test_federated_protocol(tmp_path: Path, second_image: dict[str, Any], expected_ap50: float) -> None:
    path = _write(tmp_path, images=[{"id": 1}, {"id": 2, **second_image}], annotations=[_box(1, 1)])
    metrics = _evaluate(path, [_detection(2, 1, 0.9), _detection(1, 1, 0.5)])

    assert metrics.lvis_ap50_300 == pytest.approx(expected_ap50)
    assert metrics.fixed_ap50_10000 == pytest.approx(expected_ap50)


def test_caps(tmp_path: Path) -> None:
    """300 better-scored detections of another category push a right one out of LVIS AP, not out of Fixed AP."""
    path = _write(tmp_path, images=[{"id": 1}], annotations=[_box(1, 1)])
    metrics = _evaluate(path, [*[_detection(1, 2, 0.9)] * 300, _detection(1, 1, 0.5)])
    assert metrics.lvis_ap_300 == 0.0
    assert metrics.fixed_ap_10000 == pytest.approx(1.0)
    assert metrics.most_detections_per_image == 301

    images = [{"id": image_id, "neg_category_ids": [1]} for image_id in range(1, 102)]
    path = _write(tmp_path, images=images, annotations=[_box(1, 1)])
    others = [_detection(image_id, 1, 0.9, x=60) for image_id in range(2, 102) for _ in range(100)]
    assert _evaluate(path, [*others[1:], _detection(1, 1, 0.5)]).fixed_ap50_10000 == pytest.approx(1 / 10_000)
    assert _evaluate(path, [*others, _detection(1, 1, 0.5)]).fixed_ap50_10000 == 0.0
    assert _evaluate(path, [*others, _detection(1, 1, 0.5)]).lvis_ap50_300 == pytest.approx(1 / 10_001)


@pytest.mark.parametrize(
    ("boxed_concepts", "novel"),
    [
        ((), ("bow_(weapon)", "cat", "yak")),
        (("cat", "Bow"), ("yak",)),
        (("longbow", "cats"), ("cat", "yak")),
    ],
)
def test_base_and_novel(tmp_path: Path, boxed_concepts: tuple[str, ...], novel: tuple[str, ...]) -> None:
    boxes = [_box(1, 1), _box(1, 2, x=40), _box(1, 3, x=70)]
    metrics = _evaluate(
        _write(tmp_path, images=[{"id": 1}], annotations=boxes), [_detection(1, 1, 0.9)], boxed_concepts
    )

    assert metrics.ap50_by_category == pytest.approx({"cat": 1.0, "bow_(weapon)": 0.0, "yak": 0.0})
    assert metrics.novel_categories == novel
    assert metrics.novel_ap50 == pytest.approx(("cat" in novel) / len(novel))
    assert metrics.base_ap50 == (None if len(novel) == 3 else pytest.approx(("cat" not in novel) / (3 - len(novel))))


def test_no_detections(tmp_path: Path) -> None:
    metrics = _evaluate(_write(tmp_path, images=[{"id": 1}], annotations=[_box(1, 1), _box(1, 3)]), [])

    assert set(metrics.to_dict().values()) == {0.0, 1}  # 1: num_images
    assert (metrics.lvis_ap_300, metrics.novel_ap50, metrics.num_detections) == (0.0, 0.0, 0)


@pytest.mark.parametrize(
    ("detection", "message"),
    [
        (_detection(7, 1, 0.5), r"1 detection\(s\) of an unknown image, first id 7: not in .*annotations.json"),
        (_detection(1, 9, 0.5), r"1 detection\(s\) of an unknown category, first id 9: not in .*annotations.json"),
        (_detection(1, 1, float("nan")), r"detection 1 has a box or score that is not finite: .*nan"),
        ({**_box(1, 1), "score": 0.5, "bbox": [50, 50, -10, 5]}, r"detection 1 has the box \[50.0, .*a negative side"),
    ],
)
def test_bad_detections(tmp_path: Path, detection: dict[str, Any], message: str) -> None:
    path = _write(tmp_path, images=[{"id": 1}], annotations=[_box(1, 1)])
    with pytest.raises(ValueError, match=message):
        _evaluate(path, [_detection(1, 1, 0.9), detection])


def test_corners_for_sides(tmp_path: Path) -> None:
    """Two of three would end outside the image of 100 x 100, and all are inside as corners."""
    path = _write(tmp_path, images=[{"id": 1}], annotations=[_box(1, 1)])
    corners = [[60, 60, 80, 90], [55, 10, 70, 50], [10, 10, 30, 30]]
    rows = [{**_detection(1, 1, 0.9), "bbox": box} for box in corners]
    with pytest.raises(ValueError, match="^2 of 3 boxes end outside .*so give x1, y1, x2 - x1, y2 - y1"):
        _evaluate(path, rows)
    right = [{**row, "bbox": [x1, y1, x2 - x1, y2 - y1]} for row in rows for x1, y1, x2, y2 in [row["bbox"]]]
    assert _evaluate(path, right).lvis_ap_300 is not None
    unclipped = [{**rows[0], "bbox": [60, 60, 50, 70]}] * 3  # no corners: 50 < 60
    assert _evaluate(path, unclipped).num_detections == 3


def test_unknown_training(tmp_path: Path) -> None:
    path = _write(tmp_path, images=[{"id": 1}], annotations=[_box(1, 1)])
    metrics = evaluate_lvis([_detection(1, 1, 0.9)], annotations_path=path, boxed_concepts=None)
    assert metrics.lvis_ap_300 == pytest.approx(1.0)
    assert (metrics.base_ap50, metrics.novel_ap50, metrics.novel_categories) == (None, None, ())


@pytest.mark.parametrize("field", ["neg_category_ids", "not_exhaustive_category_ids"])
def test_ground_truth_of_coco(tmp_path: Path, field: str) -> None:
    path = _write(tmp_path, images=[{"id": 1}, {"id": 2}], annotations=[_box(1, 1)])
    content = json.loads(path.read_text())
    del content["images"][1][field]
    path.write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=f"not every image has '{field}'. COCO's format has none: evaluate its files with"
    ):
        _evaluate(path, [])
    content["images"][1][field] = None
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="annotations.json is not in LVIS v1 format: invalid type: null"):
        _evaluate(path, [])


@pytest.mark.parametrize("content", ["hello", "[1]", '{"images": 3}', ""])
def test_ground_truth_that_is_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="annotations.json is not in LVIS v1 format: "):
        _evaluate(path, [])


def test_bad_annotations(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no LVIS annotations at .*absent.json"):
        _evaluate(tmp_path / "absent.json", [])
    path = _write(tmp_path, images=[{"id": 1}], annotations=[_box(1, 1)], frequency=None)
    with pytest.raises(ValueError, match="not in LVIS v1 format: category '.*' has no frequency"):
        _evaluate(path, [])
