import html
import io
import json
import re
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detclipv2.evaluation.lvis_metrics import evaluate_lvis
from ray_jobs.report import ReportData, write_report
from schemas.manifest import DatasetManifest, FileEntry, SupervisionSplit

CAPTIONS = [
    ("A photo of a yak <b>and</b> the red kite", ["yak", "red kite", "photo"]),
    ("two dogs", ["two dogs"]),
    ("nothing here", []),
]


def _jpeg(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def _entry(path: str) -> FileEntry:
    return FileEntry(path=path, sha256="0" * 64, num_bytes=1, num_rows=len(CAPTIONS))


def _stage(stage: str, unit: str, **counts: Any) -> dict[str, Any]:
    return {"stage": stage, "unit": unit, **counts}


def _write_shard(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for index, (caption, phrases) in enumerate(CAPTIONS):
            sample = {"supervision": "image_text", "width": 64, "height": 48, "concepts": phrases, "caption": caption}
            for extension, content in [("jpg", _jpeg("green")), ("json", json.dumps(sample).encode())]:
                member = tarfile.TarInfo(f"{index:04d}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def data(tmp_path: Path) -> ReportData:
    """A run on two validation images with a base category (dog) and a novel one (yak)."""
    _write_shard(tmp_path / "pairs.tar")
    images = tmp_path / "validation/images"
    images.mkdir(parents=True)
    for image_id in (1, 2):
        (images / f"{image_id}.jpg").write_bytes(_jpeg("navy"))
    image = {"width": 64, "height": 48, "neg_category_ids": [], "not_exhaustive_category_ids": []}
    boxes: list[dict[str, Any]] = [
        {"image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 20]},
        {"image_id": 1, "category_id": 2, "bbox": [30, 10, 20, 20]},
        {"image_id": 2, "category_id": 2, "bbox": [30, 10, 20, 20]},
    ]
    ground_truth = {
        "info": {"description": "two images, CC BY 4.0"},
        "images": [{"id": image_id, "file_name": f"{image_id}.jpg", **image} for image_id in (1, 2)],
        "annotations": [{"id": index, "area": 400, **box} for index, box in enumerate(boxes)],
        "categories": [
            {"id": 1, "name": "dog", "frequency": "f", "synonyms": ["dog"]},
            {"id": 2, "name": "wild_yak", "frequency": "r", "synonyms": ["yak"]},
        ],
    }
    annotations = tmp_path / "validation/annotations.json"
    annotations.write_text(json.dumps(ground_truth))
    detections = [
        {**boxes[0], "score": 0.9},
        {**boxes[1], "score": 0.8},
        {**boxes[1], "score": 0.1},
    ]

    return ReportData(
        name="a <test> run",
        run_id="0123abcd",
        training_time_s=5_000,
        num_parameters=12_345_678,
        model_bytes=49_000_000,
        dataset=DatasetManifest(
            name="tiny",
            supervisions={
                "detection": SupervisionSplit(num_samples=1_234, shards=[_entry("d.tar")], vocabulary=["dog"]),
                "image_text": SupervisionSplit(num_samples=3, shards=[_entry("pairs.tar")]),
            },
            boxed_concepts=["dog"],
            validation_annotations=_entry("validation/annotations.json"),
            validation_images="validation/images",
            funnel=[
                _stage("images", "pairs", rows_in=2_000, rows_kept=1_500, dropped={"http_404": 480, "timeout": 20}),
                _stage("noun_phrases", "pairs", rows_in=1_500, rows_kept=1_500, dropped={}),
                _stage("detection_shards", "boxes", rows_in=40, rows_kept=30, dropped={"box_empty": 10}),
            ],
        ),
        data_root=tmp_path,
        metrics=evaluate_lvis(detections, annotations_path=annotations, boxed_concepts=["dog"]),
        losses={"contrastive": [(0, 4.0), (20, float("nan")), (30, 9.0), (10, 3.0), (30, 2.0)]},
        detections={1: detections, 2: []},
        config={"train": {"num_steps": 30}},
        reproduce=["python ray_jobs/pretrain.py demo:pretrain"],
    )


def _write(data: ReportData) -> str:
    path = data.data_root / "run/report.html"
    write_report(data, path)
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    return path.read_text()


def _text(page: str) -> str:
    """What a reader sees, with single spaces."""
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def test_page_needs_nothing_else(data: ReportData) -> None:
    page = _write(data)
    sources = re.findall(r"(?:src|href)\s*=\s*\"([^\"]*)", page)
    assert len(sources) == 5  # three pairs, two scenes
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not re.search(r"https?://|@import|url\(|<script|<link", page)
    assert str(data.data_root) not in page


def test_page_says_what_was_built_and_measured(data: ReportData) -> None:
    text = _text(_write(data))
    assert "a <test> run" in text
    assert "pre-trained from 1,234 images with category boxes and 3 images with nothing but a caption." in text
    assert "1 of the 2 validation categories are novel" in text
    assert data.dataset.digest[:12] in text
    assert "0123abcd" in text
    assert "Validation set: two images, CC BY 4.0" in text
    assert "1 h 23 min" in text
    assert "12.3 M parameters, 49 MB" in text
    # One of two yaks was found: 51 of the 101 recall thresholds. Both dogs: all of them.
    assert "Novel AP50 50.5 no training box shows them" in text
    assert "Base AP50 100.0" in text
    assert "AP common – –" in text
    assert (
        "Pairs images http 404 480 · timeout 20 1,500 noun phrases 1,500 Boxes detection shards box empty 10 30" in text
    )
    assert "contrastive 2 0 to 4 step 30" in text
    assert '"num_steps": 30' in text
    assert "python ray_jobs/pretrain.py demo:pretrain" in text


def test_funnel_bars_are_relative_to_the_most_rows_of_their_unit(data: ReportData) -> None:
    widths = re.findall(r'class="(kept|dropped)" style="width:([\d.]+)%', _write(data))
    assert widths == [
        ("kept", "75.0"),
        ("dropped", "24.0"),
        ("dropped", "1.0"),
        ("kept", "75.0"),
        ("kept", "75.0"),
        ("dropped", "25.0"),
    ]


def test_pairs_show_their_noun_phrases(data: ReportData) -> None:
    page = _write(data)
    caption = "A <mark>photo</mark> of a <mark>yak</mark> &lt;b&gt;and&lt;/b&gt; the <mark>red kite</mark>"
    assert f"<figcaption>{caption}</figcaption>" in page
    assert "<figcaption>nothing here</figcaption>" in page
    novel = replace(data, metrics=replace(data.metrics, novel_categories=("red_kite",)))
    assert '<mark class="novel">red kite</mark>' in _write(novel)


def test_scenes_draw_what_scores_enough(data: ReportData) -> None:
    text = _text(_write(data))
    assert "2 detections, 1 novel 0 detections" in text
    assert "3 detections, 2 novel" in _text(_write(replace(data, min_score=0.05)))


def test_parts_without_data_are_left_out(data: ReportData) -> None:
    bare = replace(
        data,
        dataset=data.dataset.model_copy(update={"supervisions": {}, "funnel": []}),
        losses={"contrastive": []},
        detections={},
        metrics=evaluate_lvis(
            [], annotations_path=data.data_root / "validation/annotations.json", boxed_concepts=["dog", "yak"]
        ),
    )
    page = _write(bare)
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["Average precision", "Category by category", "How to reproduce"]
    assert "<img" not in page


def test_page_is_the_same_each_time(data: ReportData) -> None:
    assert _write(data) == _write(data)


def test_detections_of_an_unknown_image(data: ReportData) -> None:
    with pytest.raises(ValueError, match="detections of image 7: the validation set of 'tiny' has no such image"):
        _write(replace(data, detections={7: []}))
    without_validation = data.dataset.model_copy(update={"validation_images": None})
    with pytest.raises(ValueError, match="dataset 'tiny' has no validation set to draw detections on"):
        _write(replace(data, dataset=without_validation))
