"""Evaluation of a model folder on a dataset's validation set, or on an annotation file with its images.

``python ray_jobs/evaluate.py --model outputs/models/NAME --data outputs/data/datasets/demo/MANIFEST.json``
``python ray_jobs/evaluate.py --model outputs/models/NAME --data val.json --images photos/``
"""

import json
import shutil
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table
from upath import UPath

from detclipv2.evaluation.lvis_metrics import LvisMetrics, evaluate_lvis
from detclipv2.image_decoding import ImageDecodingError, decode_rgb
from detclipv2.inference import Predictor
from detclipv2.terminal import InertConsole
from pipelines.build.own_boxes import own_boxes
from pipelines.storage import DataRoot, Location, format_counts, sha256_file
from ray_jobs.command_line import run_cli
from ray_jobs.dataset_files import ValidationSet, root_of_dataset
from ray_jobs.writable import check_file
from schemas.manifest import MANIFEST_NAME, DatasetManifest, FileEntry, manifest_path, read_dataset_manifest
from schemas.predictions import LvisDetection

CAPS = (("lvis", 300), ("fixed", 10_000))  # of detections: in the names of metrics


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Detections of a model on a validation set, and its metrics."""

    metrics: LvisMetrics
    detections: list[dict[str, Any]]  # rows of the LVIS results format


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Evaluate a model: LVIS AP, Fixed AP, and the AP50 of base and novel concepts."""

    model: Path
    """A model folder, such as outputs/models/NAME."""
    data: DataRoot = Path("outputs/data/datasets/demo/MANIFEST.json")
    """The dataset whose validation set counts, by its folder or manifest: a path, or a URL such as s3://...
    With --images: annotations instead, whatever --validation of build_dataset.py takes. Nothing is built."""
    images: Path | None = None
    """The folder with the images of --data, which are annotations then."""
    out: Path | None = None
    """Where to write the detections as an LVIS results file.
    With --images, the annotations that its ids and pixels belong to are written beside it."""


def evaluate(
    predictor: Predictor, dataset: DatasetManifest, *, data_root: Location, console: Console, max_detections: int = 300
) -> Evaluated:
    """Detect every category of a dataset's validation set in every image of it.

    Raises:
        ValueError: the dataset has no validation set, or an image of it is missing.
    """
    return evaluate_on(
        predictor,
        ValidationSet(dataset, data_root=data_root),
        boxed_concepts=dataset.boxed_concepts,
        console=console,
        max_detections=max_detections,
    )


def evaluate_annotations(
    predictor: Predictor, annotations: Path, *, images: Path, folder: Path, console: Console
) -> Evaluated:
    """Detect every category of an annotation file in every image of it.

    Which concepts had boxes in training is not known here, so there is neither base nor novel, nor rare, common or frequent.

    Args:
        predictor: the model.
        annotations: what ``--validation`` of ``ray_jobs/build_dataset.py`` takes.
        images: the folder with its images.
        folder: an empty one, which gets ``annotations.json`` in LVIS's format and ``images/`` as they are evaluated.
        console: for the progress.

    Raises:
        ValueError: the annotations cannot be read, or an image of them cannot be used.
    """
    source = own_boxes(detection=(), grounding=(), validation=annotations, images=(images,), held_out=None).validation
    assert source is not None
    written = source.write(folder, train_image_counts={})
    if written.dropped_boxes:
        lost = f"{annotations}: boxes that cannot be used: {format_counts(written.dropped_boxes)}"
        console.print(f"note: {lost}", highlight=False, markup=False, soft_wrap=True)
    path = folder / "annotations.json"
    entry = FileEntry(
        path=path.name, sha256=sha256_file(path), num_bytes=path.stat().st_size, num_rows=written.num_images
    )
    dataset = DatasetManifest(
        name=annotations.stem,
        supervisions={},
        boxed_concepts=[],
        validation_annotations=entry,
        validation_images="images",
    )
    validation = ValidationSet(dataset, data_root=folder)
    evaluated = evaluate_on(predictor, validation, boxed_concepts=None, console=console)
    unknown: dict[str, Any] = {f"{name}_ap{group}_{cap}": None for name, cap in CAPS for group in "rcf"}
    return replace(evaluated, metrics=replace(evaluated.metrics, **unknown))


def evaluate_on(
    predictor: Predictor,
    validation: ValidationSet,
    *,
    boxed_concepts: Collection[str] | None,
    console: Console,
    max_detections: int = 300,
) -> Evaluated:
    """Detect every category of a validation set in every image of it; ``boxed_concepts`` is that of `evaluate_lvis`.

    Raises:
        ValueError: an image is missing.
    """
    # LVIS's own definitions, where the validation set has them and the model was trained with definitions.
    categories = validation.ground_truth["categories"]
    own = {validation.names[category["id"]]: category["def"] for category in categories if category.get("def")}
    texts = predictor.encode_names(list(validation.names.values()), own_definitions=own)
    category_ids = list(validation.names)
    rows: list[dict[str, Any]] = []
    hidden = not console.is_terminal
    for image_id in track(list(validation.file_names), "evaluation", console=console, disable=hidden, transient=True):
        try:
            image = decode_rgb(validation.path(image_id))
        except (OSError, ImageDecodingError) as error:
            path = validation.folder / validation.file_names[image_id]
            raise ValueError(f"validation image {path} cannot be read: {error}; build the dataset again") from error
        found = predictor(image, names=texts, max_detections=max_detections)
        values = zip(found.boxes_xyxy.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
        for (x1, y1, x2, y2), score, label in values:
            bbox = (x1, y1, x2 - x1, y2 - y1)
            row = LvisDetection(image_id=image_id, category_id=category_ids[label], bbox=bbox, score=score)
            rows.append(row.model_dump())
    metrics = evaluate_lvis(rows, annotations_path=validation.annotations_path, boxed_concepts=boxed_concepts)
    return Evaluated(metrics=metrics, detections=rows)


def metrics_table(metrics: LvisMetrics) -> Table:
    """LVIS AP and Fixed AP beside each other, then base and novel."""
    values = metrics.to_dict()
    table = Table("metric", title="validation", title_justify="left")
    columns = ("AP", "AP50", "AP75", "APr", "APc", "APf")
    for column in columns:
        table.add_column(column, justify="right")
    labels = ("LVIS AP, 300 per image", "Fixed AP, 10,000 per category")
    for label, (prefix, cap) in zip(labels, CAPS, strict=True):
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
    console = InertConsole()
    if config.out is not None:
        check_file(config.out, option="out")
    if config.images is None:
        dataset = _dataset(config.data)
        predictor = Predictor.from_pretrained(config.model)
        evaluated = evaluate(predictor, dataset, data_root=root_of_dataset(config.data), console=console)
        _show(evaluated, out=config.out, console=console)
        return
    annotations = Path(str(config.data))
    if not annotations.exists():
        raise ValueError(
            f"--data {config.data}: no such file or folder; with --images it is annotations on this machine"
        )
    predictor = Predictor.from_pretrained(config.model)
    with tempfile.TemporaryDirectory(prefix="detclip-evaluate-") as name:
        folder = Path(name)
        evaluated = evaluate_annotations(predictor, annotations, images=config.images, folder=folder, console=console)
        _show(evaluated, out=config.out, console=console)
        if config.out is not None:
            beside = config.out.with_name(f"{config.out.stem}_annotations.json")
            shutil.copyfile(folder / "annotations.json", beside)
            console.print(f"annotations {beside}", highlight=False)


def _dataset(data: Path | UPath) -> DatasetManifest:
    try:
        return read_dataset_manifest(data)
    except ValueError as error:
        if data.name != MANIFEST_NAME and manifest_path(data).is_file():
            raise ValueError(
                f"--data {data} is no manifest of a dataset; for annotations, name the folder of their images with --images"
            ) from error
        raise


def _show(evaluated: Evaluated, *, out: Path | None, console: Console) -> None:
    console.print(metrics_table(evaluated.metrics))
    if out is not None:
        out.write_text(json.dumps(evaluated.detections) + "\n")
        console.print(f"detections {out}", highlight=False)


if __name__ == "__main__":
    run_cli(EvaluateConfig, main)
