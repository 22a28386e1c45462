"""Evaluation of a model folder on annotations with a folder of images."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from detclipv2.config import ModelConfig
from detclipv2.evaluation.lvis_metrics import evaluate_lvis
from detclipv2.hub import save_pretrained
from detclipv2.inference import Predictor
from detclipv2.models.detector import DetCLIPv2
from ray_jobs import evaluate
from ray_jobs.command_line import run_cli
from ray_jobs.evaluate import EvaluateConfig, evaluate_annotations, main, metrics_table


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """``val.json`` beside ``photos/`` with three images, of which one is transparent and one is turned by EXIF."""
    photos = tmp_path / "photos"
    photos.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.effect_noise((96, 64), 80).convert("RGB").save(photos / "a.jpg")
    Image.effect_noise((64, 96), 80).convert("RGB").save(photos / "b.jpg", exif=exif)
    Image.new("RGBA", (96, 64), (10, 200, 10, 0)).save(photos / "c.png")
    content = {
        "images": [
            {"id": number, "file_name": name, "width": 96, "height": 64}
            for number, name in ((70, "a.jpg"), (8, "b.jpg"), (9, "c.png"))
        ],
        "annotations": [
            {"id": 1, "image_id": 70, "category_id": 5, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0},
            {"id": 2, "image_id": 8, "category_id": 2, "bbox": [20, 5, 30, 40], "area": 1200, "iscrowd": 0},
        ],
        "categories": [{"id": 5, "name": "red apple"}, {"id": 2, "name": "dog"}],
    }
    (tmp_path / "val.json").write_text(json.dumps(content))
    return tmp_path / "val.json"


@pytest.fixture
def model(tiny_config: ModelConfig, tiny_detector: Callable[..., DetCLIPv2], tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    save_pretrained(folder, tiny_detector(), config=tiny_config, image_size=64, data_digest="d")
    return folder


def test_annotations_with_a_folder_of_images(
    coco: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "found.json"
    main(EvaluateConfig(model=model, data=coco, images=coco.parent / "photos", out=out))

    printed = capsys.readouterr().out
    assert re.search(r"base concepts +│ +│ +- │", printed), printed
    assert re.search(r"novel concepts +│ +│ +- │", printed), printed
    rows = json.loads(out.read_text())
    assert rows
    beside = out.with_name("found_annotations.json")
    written = json.loads(beside.read_text())
    assert len(written["images"]) == 3
    again = evaluate_lvis(rows, annotations_path=beside, boxed_concepts=None)
    assert (again.num_images, again.num_detections) == (3, len(rows))
    assert again.lvis_ap_300 is not None


def test_what_is_unknown_is_undefined(coco: Path, model: Path, tmp_path: Path) -> None:
    predictor = Predictor.from_pretrained(model)
    (tmp_path / "written").mkdir()
    console = Console(quiet=True)
    photos = coco.parent / "photos"
    evaluated = evaluate_annotations(predictor, coco, images=photos, folder=tmp_path / "written", console=console)

    metrics = evaluated.metrics
    assert metrics.num_images == 3
    assert set(metrics.ap50_by_category) == {"dog", "red apple"}
    assert metrics.novel_categories == ()
    undefined = [name for name, value in vars(metrics).items() if value is None]
    groups = [f"{name}_ap{group}_{cap}" for name, cap in (("lvis", 300), ("fixed", 10000)) for group in "rcf"]
    assert sorted(undefined) == sorted([*groups, "base_ap50", "novel_ap50"])
    cells = [list(column.cells) for column in metrics_table(metrics).columns]
    assert [column[0] for column in cells][4:] == ["-", "-", "-"]
    assert "-" not in [column[0] for column in cells][1:4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "val.json"], "--data val.json is no manifest of a dataset; for annotations, name the folder"),
        (["--data", "none.json"], "no dataset at none.json"),
        (["--data", "none.json", "--images", "photos"], "--data none.json: no such file or folder; with --images it"),
        (["--data", "val.json", "--images", "nowhere"], "nowhere"),
        (["--data", "photos/a.jpg", "--images", "photos"], "photos/a.jpg"),
        (["--data", "val.json", "--images", "photos", "--out", "photos"], "out photos: a folder; name a file in it"),
        (
            ["--data", "val.json", "--images", "photos", "--out", "val.json/x"],
            "out: val.json: nothing can be written there",
        ),
    ],
)
def test_errors_are_one_line(
    coco: Path,
    model: Path,
    options: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[Any],
) -> None:
    monkeypatch.chdir(coco.parent)
    monkeypatch.setattr("sys.argv", ["evaluate.py", "--model", str(model), *options])
    with pytest.raises(SystemExit) as stop:
        run_cli(EvaluateConfig, evaluate.main)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
