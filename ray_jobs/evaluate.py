"""Evaluation of a model folder on a dataset's validation set.

``python ray_jobs/evaluate.py --model outputs/models/NAME --data outputs/data/datasets/demo/MANIFEST.json``
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from detclipv2.evaluation.lvis_metrics import LvisMetrics, evaluate_lvis
from detclipv2.inference import Predictor
from pipelines.storage import DataRoot, Location
from ray_jobs.command_line import run_cli
from ray_jobs.dataset_files import ValidationSet, root_of_dataset
from ray_jobs.writable import check_file
from schemas.manifest import DatasetManifest, read_dataset_manifest
from schemas.predictions import LvisDetection


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Detections of a model on a validation set, and its metrics."""

    metrics: LvisMetrics
    detections: list[dict[str, Any]]  # rows of the LVIS results format


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Evaluate a model on a dataset's validation set: LVIS AP, Fixed AP, and the AP50 of base and novel concepts."""

    model: Path
    """A model folder, such as outputs/models/NAME."""
    data: DataRoot = Path("outputs/data/datasets/demo/MANIFEST.json")
    """Manifest of the dataset whose validation set counts: a path, or a URL such as s3://..."""
    out: Path | None = None
    """Where to write the detections as an LVIS results file."""


def evaluate(
    predictor: Predictor, dataset: DatasetManifest, *, data_root: Location, console: Console, max_detections: int = 300
) -> Evaluated:
    """Detect every category of the validation set in every image of it.

    Raises:
        ValueError: the dataset has no validation set, or an image of it is missing.
    """
    validation = ValidationSet(dataset, data_root=data_root)
    # LVIS's own definitions, where the validation set has them and the model was trained with definitions.
    categories = validation.ground_truth["categories"]
    own = {validation.names[category["id"]]: category["def"] for category in categories if category.get("def")}
    texts = predictor.encode_names(list(validation.names.values()), own_definitions=own)
    category_ids = list(validation.names)
    rows: list[dict[str, Any]] = []
    hidden = not console.is_terminal
    for image_id in track(list(validation.file_names), "evaluation", console=console, disable=hidden, transient=True):
        try:
            image = Image.open(validation.path(image_id))
            image.load()
        except OSError as error:
            path = validation.folder / validation.file_names[image_id]
            raise ValueError(f"validation image {path} cannot be read: {error}; build the dataset again") from error
        found = predictor(image, names=texts, max_detections=max_detections)
        values = zip(found.boxes_xyxy.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
        for (x1, y1, x2, y2), score, label in values:
            bbox = (x1, y1, x2 - x1, y2 - y1)
            row = LvisDetection(image_id=image_id, category_id=category_ids[label], bbox=bbox, score=score)
            rows.append(row.model_dump())
    metrics = evaluate_lvis(rows, annotations_path=validation.annotations_path, boxed_concepts=dataset.boxed_concepts)
    return Evaluated(metrics=metrics, detections=rows)


def metrics_table(metrics: LvisMetrics) -> Table:
    """LVIS AP and Fixed AP beside each other, then base and novel."""
    values = metrics.to_dict()
    table = Table("metric", title="validation", title_justify="left")
    columns = ("AP", "AP50", "AP75", "APr", "APc", "APf")
    for column in columns:
        table.add_column(column, justify="right")
    for label, prefix, cap in (
        ("LVIS AP, 300 per image", "lvis", 300),
        ("Fixed AP, 10,000 per category", "fixed", 10_000),
    ):
        cells = [values.get(f"{prefix}_{column.lower()}_{cap}") for column in columns]
        table.add_row(label, *map(points, cells))
    for label, value in (("base concepts", metrics.base_ap50), ("novel concepts", metrics.novel_ap50)):
        table.add_row(label, "", points(value), "", "", "", "")
    return table


def points(value: float | None) -> str:
    """A metric in points of 100; "-" where it is undefined."""
    return "-" if value is None else f"{100 * value:.1f}"


def main(config: EvaluateConfig) -> None:
    """Evaluate a saved model and print the table."""
    console = Console()
    dataset = read_dataset_manifest(config.data)
    if config.out is not None:
        check_file(config.out, option="out")
    predictor = Predictor.from_pretrained(config.model)
    evaluated = evaluate(predictor, dataset, data_root=root_of_dataset(config.data), console=console)
    console.print(metrics_table(evaluated.metrics))
    if config.out is not None:
        config.out.write_text(json.dumps(evaluated.detections) + "\n")
        console.print(f"detections {config.out}", highlight=False)


if __name__ == "__main__":
    run_cli(EvaluateConfig, main)
