"""Evaluate a model folder on a dataset's validation set, and turn a finished training into a registered, reported model.

``python ray_jobs/evaluate.py --model outputs/models/NAME --data outputs/data/datasets/demo/MANIFEST.json``
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torchvision.ops import nms

from detclipv2.build import build_detector
from detclipv2.drawing import draw_detections
from detclipv2.evaluation.lvis import LvisMetrics, evaluate_lvis
from detclipv2.hub import load_pretrained, save_pretrained
from detclipv2.inference import Predictor
from detclipv2.losses.hybrid import HybridObjective
from detclipv2.training.checkpoint import TrainState
from detclipv2.training.loop import load_trained_state
from ray_jobs.cli import run_cli
from ray_jobs.job import JobConfig
from ray_jobs.report import ReportData, write_report
from ray_jobs.tracking import Tracker
from schemas.manifest import DatasetManifest, canonical_json, read_dataset_manifest
from schemas.predictions import LvisDetection

NUM_DRAWN = 9
DRAW_SCORE = 0.25
DRAW_NMS_IOU = 0.5


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What a model found on a validation set, and how good it is."""

    metrics: LvisMetrics
    detections: list[dict[str, Any]]  # rows of the LVIS results format


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Evaluate a model on a dataset's validation set: LVIS AP, Fixed AP, and the AP50 of base and novel concepts."""

    model: Path
    """A model folder, such as outputs/models/NAME."""
    data: Path = Path("outputs/data/datasets/demo/MANIFEST.json")
    """Manifest of the dataset whose validation set counts."""
    out: Path | None = None
    """Where to write the detections as an LVIS results file."""


def evaluate(
    predictor: Predictor, dataset: DatasetManifest, *, data_root: Path, console: Console, max_detections: int = 300
) -> Evaluated:
    """Detect every category of the validation set in every picture of it.

    Raises:
        ValueError: the dataset has no validation set, or a picture of it is missing.
    """
    if dataset.validation_annotations is None or dataset.validation_images is None:
        raise ValueError(
            f"dataset {dataset.name} has no validation set: build it with --detection, or with --validation"
        )
    annotations_path = data_root / dataset.validation_annotations.path
    ground_truth = json.loads(annotations_path.read_text())
    categories = ground_truth["categories"]
    texts = predictor.encode_names([category["name"].replace("_", " ") for category in categories])
    rows: list[dict[str, Any]] = []
    pictures = track(
        ground_truth["images"],
        description="evaluation",
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    for picture in pictures:
        path = data_root / dataset.validation_images / picture_name(picture)
        try:
            image = Image.open(path)
            image.load()
        except OSError as error:
            raise ValueError(f"validation picture {path} cannot be read: {error}; build the dataset again") from error
        found = predictor(image, names=texts, max_detections=max_detections)
        for (x1, y1, x2, y2), score, label in zip(
            found.boxes_xyxy.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
        ):
            rows.append(
                LvisDetection(
                    image_id=picture["id"],
                    category_id=categories[label]["id"],
                    bbox=(x1, y1, x2 - x1, y2 - y1),
                    score=score,
                ).model_dump()
            )
    metrics = evaluate_lvis(rows, annotations_path=annotations_path, boxed_concepts=dataset.boxed_concepts)
    return Evaluated(metrics=metrics, detections=rows)


def shown(detections: list[dict[str, Any]], image_id: int) -> list[dict[str, Any]]:
    """The detections of a picture that a person should see: the strong ones, each object with its best name alone."""
    rows = [row for row in detections if row["image_id"] == image_id and row["score"] >= DRAW_SCORE]
    if not rows:
        return []
    boxes = torch.tensor([(x, y, x + width, y + height) for x, y, width, height in (row["bbox"] for row in rows)])
    keep = nms(boxes, torch.tensor([row["score"] for row in rows]), DRAW_NMS_IOU)
    return [rows[index] for index in keep.tolist()]


def picture_name(picture: dict[str, Any]) -> str:
    """File name of an LVIS image entry, which names it by its URL."""
    return str(picture.get("file_name") or picture["coco_url"]).rsplit("/", 1)[-1]


def metrics_table(metrics: LvisMetrics) -> Table:
    """LVIS AP and Fixed AP beside each other, then base and novel."""
    values = metrics.to_dict()
    table = Table("metric", title="validation", title_justify="left")
    columns = ("AP", "AP50", "AP75", "APr", "APc", "APf")
    for column in columns:
        table.add_column(column, justify="right")
    for label, prefix, cap in (
        ("LVIS AP, 300 per picture", "lvis", 300),
        ("Fixed AP, 10,000 per category", "fixed", 10_000),
    ):
        cells = [values.get(f"{prefix}_{column.lower()}_{cap}") for column in columns]
        table.add_row(label, *("-" if cell is None else f"{100 * cell:.1f}" for cell in cells))
    for label, value in (("base concepts", metrics.base_ap50), ("novel concepts", metrics.novel_ap50)):
        table.add_row(label, "", "-" if value is None else f"{100 * value:.1f}", "", "", "", "")
    return table


def evaluate_and_register(job: JobConfig, run_name: str, state: TrainState, *, console: Console) -> LvisMetrics | None:
    """Model folder, metrics, registered version and report of a finished training; None without a validation set."""
    dataset = read_dataset_manifest(job.data)
    job = job.for_dataset(dataset)
    model_folder = job.outputs / "models" / run_name
    predictor = _export(job, state, model_folder, dataset)
    if dataset.validation_annotations is None:
        console.print(
            f"model      {model_folder} (the dataset has no validation set to measure it on)", highlight=False
        )
        return None
    evaluated = evaluate(predictor, dataset, data_root=job.data_root, console=console)
    tracker = Tracker(job, dataset)
    try:
        values = evaluated.metrics.to_dict()
        tracker.log_metrics({f"val/{name}": value for name, value in values.items()}, step=state.step)
        version = tracker.register(model_folder, metrics=values)
        report = _report(job, tracker, dataset, evaluated, predictor, model_folder)
        tracker.log_files(report)
        tracker.log_files(
            *sample_pictures(dataset, evaluated, job.data_root, folder=report.parent), folder="detections"
        )
    finally:
        tracker.close("FINISHED")
    console.print(metrics_table(evaluated.metrics))
    console.print(f"model      {model_folder}, registered as {job.registered_model} version {version}", highlight=False)
    console.print(f"report     {report}", highlight=False, soft_wrap=True)
    return evaluated.metrics


def _export(job: JobConfig, state: TrainState, folder: Path, dataset: DatasetManifest) -> Predictor:
    objective = HybridObjective(build_detector(job.model), job.train.loss)
    load_trained_state(objective, state.model)
    image_size = max(settings.image_size for settings in job.train.supervisions().values())
    save_pretrained(
        folder,
        objective.detector,
        config=job.model,
        image_size=image_size,
        data_digest=dataset.digest,
        names=dataset.boxed_concepts,
    )
    return Predictor(load_pretrained(folder).detector, image_size=image_size)


def _pictures_to_draw(dataset: DatasetManifest, evaluated: Evaluated, data_root: Path) -> list[int]:
    """Ids of the first validation pictures that show base and novel objects, then of the first others."""
    assert dataset.validation_annotations is not None
    ground_truth = json.loads((data_root / dataset.validation_annotations.path).read_text())
    novel = {c["id"] for c in ground_truth["categories"] if c["name"] in evaluated.metrics.novel_categories}
    kinds: dict[int, set[bool]] = {picture["id"]: set() for picture in ground_truth["images"]}
    for annotation in ground_truth["annotations"]:
        kinds[annotation["image_id"]].add(annotation["category_id"] in novel)
    return sorted(kinds, key=lambda picture: (-len(kinds[picture]), picture))[:NUM_DRAWN]


def _report(
    job: JobConfig,
    tracker: Tracker,
    dataset: DatasetManifest,
    evaluated: Evaluated,
    predictor: Predictor,
    model_folder: Path,
) -> Path:
    drawn = _pictures_to_draw(dataset, evaluated, job.data_root)
    path = job.outputs / "reports" / tracker.run_name / "report.html"
    write_report(
        ReportData(
            name=tracker.run_name,
            run_id=tracker.run_id,
            training_time_s=tracker.training_seconds(),
            num_parameters=sum(parameter.numel() for parameter in predictor.detector.parameters()),
            model_bytes=sum(file.stat().st_size for file in model_folder.rglob("*") if file.is_file()),
            dataset=dataset,
            data_root=job.data_root,
            metrics=evaluated.metrics,
            losses=tracker.losses(),
            detections={picture: shown(evaluated.detections, picture) for picture in drawn},
            config=json.loads(canonical_json(json.loads(json.dumps(asdict(job), default=str)))),
            reproduce=[f"python ray_jobs/pretrain.py {job.recipe} --data {job.data}"],
            min_score=DRAW_SCORE,
        ),
        path,
    )
    return path


def sample_pictures(dataset: DatasetManifest, evaluated: Evaluated, data_root: Path, *, folder: Path) -> Sequence[Path]:
    """Validation pictures with the detections drawn, as JPEG files in ``folder``."""
    assert dataset.validation_annotations is not None and dataset.validation_images is not None
    ground_truth = json.loads((data_root / dataset.validation_annotations.path).read_text())
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}
    pictures = {picture["id"]: picture_name(picture) for picture in ground_truth["images"]}
    paths = []
    for image_id in _pictures_to_draw(dataset, evaluated, data_root):
        rows = shown(evaluated.detections, image_id)
        drawn = draw_detections(
            Image.open(data_root / dataset.validation_images / pictures[image_id]),
            [(x, y, x + width, y + height) for x, y, width, height in (row["bbox"] for row in rows)],
            [names[row["category_id"]] for row in rows],
            [row["score"] for row in rows],
            highlight=set(evaluated.metrics.novel_categories),
        )
        paths.append(folder / f"detections_{image_id}.jpg")
        drawn.convert("RGB").save(paths[-1], quality=90)
    return paths


def main(config: EvaluateConfig) -> None:
    """Evaluate a saved model and print the table."""
    console = Console()
    dataset = read_dataset_manifest(config.data)
    data_root = config.data.resolve().parent.parent.parent
    evaluated = evaluate(Predictor.from_pretrained(config.model), dataset, data_root=data_root, console=console)
    console.print(metrics_table(evaluated.metrics))
    if config.out is not None:
        config.out.parent.mkdir(parents=True, exist_ok=True)
        config.out.write_text(json.dumps(evaluated.detections) + "\n")
        console.print(f"detections {config.out}", highlight=False)


if __name__ == "__main__":
    run_cli(EvaluateConfig, main)
