"""Model export, evaluation and registration: of a finished training, with a report, and of checkpoints during training."""

import tempfile
from pathlib import Path
from typing import Any

import ray.train
import torch
from rich.console import Console
from torchvision.ops import nms

from detclipv2.evaluation.lvis_metrics import LvisMetrics
from detclipv2.hub import save_pretrained, write_model_card
from detclipv2.inference import Predictor
from detclipv2.losses.hybrid import HybridObjective
from detclipv2.terminal import InertConsole
from detclipv2.training.checkpoint import TrainState, load_state, load_trained_state
from pipelines.storage import Location
from ray_jobs.dataset_files import ValidationSet
from ray_jobs.evaluate import Evaluated, evaluate, metrics_table
from ray_jobs.job_config import JobConfig
from ray_jobs.prepare import storage_of
from ray_jobs.report import ReportData, draw_image, words, write_report
from ray_jobs.tracking import Registry, RunLogger, Tracker, check_tracking, tracking_uri
from ray_jobs.worker import WorkerArgs
from schemas.manifest import DatasetManifest, read_dataset_manifest

NUM_DRAWN = 9
DRAW_SCORE = 0.25
DRAW_NMS_IOU = 0.5


def evaluate_and_register(job: JobConfig, run_name: str, state: TrainState, *, console: Console) -> LvisMetrics | None:
    """Export a finished training; with a validation set, evaluate it, register it, write its report and return its metrics.

    Two processes that do so for one run, do so one after the other.

    Raises:
        ValueError: MLflow does not answer; the training is finished, and the same job again evaluates and registers it.
    """
    dataset = read_dataset_manifest(job.data)
    with storage_of(job, dataset).locked(wait=True):
        return _evaluate_and_register(job.for_dataset(dataset), dataset, run_name, state, console=console)


def _evaluate_and_register(
    job: JobConfig, dataset: DatasetManifest, run_name: str, state: TrainState, *, console: Console
) -> LvisMetrics | None:
    model_folder = job.outputs / "models" / run_name
    trained = trained_predictor(job, state, dataset)
    save_pretrained(
        model_folder,
        trained.detector,
        config=job.model,
        image_size=trained.image_size,
        shorter_size=trained.shorter_size,
        data_digest=dataset.digest,
        vocabulary=trained.vocabulary,
        dictionary=trained.dictionary,
    )
    predictor = Predictor.from_pretrained(model_folder)
    if dataset.validation_annotations is None:
        why = "the dataset has no validation set to measure it on"
        console.print(f"model      {model_folder} ({why})", highlight=False, soft_wrap=True)
        return None
    evaluated = evaluate(predictor, dataset, data_root=job.data_root, console=console)
    try:
        check_tracking(tracking_uri(job.tracking_uri, job.outputs))
    except ValueError as error:
        raise ValueError(
            f"run {run_name} is trained, and its model is in {model_folder}, but not registered: {error}; then submit the same"
            " job again"
        ) from error
    tracker = Tracker(job, dataset)
    try:
        values = evaluated.metrics.to_dict()
        write_model_card(model_folder, metrics=values)
        tracker.logger.log({f"val/{name}": value for name, value in values.items()}, step=state.step)
        tags = {"data_digest": dataset.digest} | {name: f"{value:.4f}" for name, value in values.items()}
        version = Registry(tracker.uri, job.registered_model).register(model_folder, run_id=tracker.run_id, tags=tags)
        report = _report(job, tracker, evaluated, predictor, model_folder)
        tracker.logger.log_files(report)
        images = sample_images(dataset, evaluated, job.data_root, folder=report.parent)
        tracker.logger.log_files(*images, folder="detections")
    finally:
        if problem := tracker.close("FINISHED"):
            console.print(f"warning    {problem}", highlight=False, soft_wrap=True)
    console.print(metrics_table(evaluated.metrics))
    registered = f"{model_folder}, registered as {job.registered_model} version {version}"
    console.print(f"model      {registered}", highlight=False, soft_wrap=True)
    console.print(f"report     {report}", highlight=False, soft_wrap=True)
    return evaluated.metrics


def trained_predictor(job: JobConfig, state: TrainState, dataset: DatasetManifest) -> Predictor:
    """The detector of a state, with the names of the validation set; the averaged weights where training kept an average.

    Raises:
        ValueError: the state is of another model.
    """
    objective = HybridObjective(job.detector(), job.train.loss).eval()
    split = dataset.supervisions.get("detection")
    # By the encoder before it was trained, as the workers did.
    dictionary = job.enricher(objective.detector.text_encoder).resolved([] if split is None else split.vocabulary)
    load_trained_state(objective, state.weights)
    largest = max(job.train.supervisions().values(), key=lambda settings: settings.image_size)
    predictor = Predictor(
        objective.detector,
        image_size=largest.image_size,
        shorter_size=largest.shorter_size,
        prompt=job.model.prompt,
        dictionary=dictionary,
    )
    names = dataset.boxed_concepts
    if dataset.validation_annotations is not None:
        names = list(ValidationSet(dataset, data_root=job.data_root).names.values()) or names
    if names:
        predictor.set_vocabulary(names)
    return predictor


def validate_checkpoint(checkpoint: ray.train.Checkpoint, *, args: WorkerArgs) -> dict[str, Any]:
    """Log LVIS AP and Fixed AP of a checkpoint to MLflow, and the same images each time with its detections drawn.

    Runs in a Ray task beside the trainers, which go on meanwhile. Returns the metrics, which Ray Train keeps with the checkpoint.
    """
    with checkpoint.as_directory() as folder:
        state = load_state(Path(folder))
    predictor = trained_predictor(args.job, state, args.dataset)
    evaluated = evaluate(predictor, args.dataset, data_root=args.data_root, console=InertConsole(quiet=True))
    metrics = {f"val/{name}": value for name, value in evaluated.metrics.to_dict().items()}
    logger = RunLogger(args.tracking_uri, args.run_id)
    logger.log(metrics, step=state.step)
    with tempfile.TemporaryDirectory(prefix="detclip-validate-") as name:
        images = sample_images(args.dataset, evaluated, args.data_root, folder=Path(name))
        if not logger.flush():  # MLflow answers
            logger.log_files(*images, folder=f"detections/step_{state.step:09d}")
    return metrics


def _images_to_draw(validation: ValidationSet, evaluated: Evaluated) -> list[int]:
    """Ids of the first validation images that show base and novel objects, then of the first others."""
    categories = validation.ground_truth["categories"]
    novel = {c["id"] for c in categories if c["name"] in evaluated.metrics.novel_categories}
    kinds: dict[int, set[bool]] = {image_id: set() for image_id in validation.file_names}
    for annotation in validation.ground_truth["annotations"]:
        kinds[annotation["image_id"]].add(annotation["category_id"] in novel)
    return sorted(kinds, key=lambda image: (-len(kinds[image]), image))[:NUM_DRAWN]


def _report(job: JobConfig, tracker: Tracker, evaluated: Evaluated, predictor: Predictor, model_folder: Path) -> Path:
    drawn = _images_to_draw(ValidationSet(tracker.dataset, data_root=job.data_root), evaluated)
    path = job.outputs / "reports" / tracker.run_name / "report.html"
    write_report(
        ReportData(
            name=tracker.run_name,
            run_id=tracker.run_id,
            training_time_s=tracker.training_seconds(),
            num_parameters=sum(parameter.numel() for parameter in predictor.detector.parameters()),
            model_bytes=sum(file.stat().st_size for file in model_folder.rglob("*") if file.is_file()),
            dataset=tracker.dataset,
            data_root=job.data_root,
            metrics=evaluated.metrics,
            losses=tracker.losses(),
            detections={image: shown(evaluated.detections, image) for image in drawn},
            config=job.to_json(),
            reproduce=[f"python ray_jobs/pretrain.py {job.recipe} --data {job.data}"],
            min_score=DRAW_SCORE,
        ),
        path,
    )
    return path


def sample_images(dataset: DatasetManifest, evaluated: Evaluated, data_root: Location, *, folder: Path) -> list[Path]:
    """Validation images with the detections drawn, as JPEG files in ``folder``."""
    validation = ValidationSet(dataset, data_root=data_root)
    paths = []
    for image_id in _images_to_draw(validation, evaluated):
        rows = shown(evaluated.detections, image_id)
        drawn = draw_image(
            validation, image_id, rows, novel={words(name) for name in evaluated.metrics.novel_categories}
        )
        paths.append(folder / f"detections_{image_id}.jpg")
        drawn.convert("RGB").save(paths[-1], quality=90)
    return paths


def shown(detections: list[dict[str, Any]], image_id: int) -> list[dict[str, Any]]:
    """The detections of an image that a person should see: the strong ones, each object with its best name alone."""
    rows = [row for row in detections if row["image_id"] == image_id and row["score"] >= DRAW_SCORE]
    if not rows:
        return []
    boxes = torch.tensor([(x, y, x + width, y + height) for x, y, width, height in (row["bbox"] for row in rows)])
    keep = nms(boxes, torch.tensor([row["score"] for row in rows]), DRAW_NMS_IOU)
    return [rows[index] for index in keep.tolist()]
