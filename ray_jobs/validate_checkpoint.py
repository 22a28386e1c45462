"""Checkpoint evaluation during training: a Ray task beside the trainers, which go on meanwhile."""

import tempfile
from pathlib import Path
from typing import Any

import ray.train
from rich.console import Console

from detclipv2.training.checkpoint import load_state
from ray_jobs.evaluate import evaluate
from ray_jobs.register_model import sample_images, trained_predictor
from ray_jobs.tracking import RunLogger
from ray_jobs.worker import WorkerArgs


def validate_checkpoint(checkpoint: ray.train.Checkpoint, *, args: WorkerArgs) -> dict[str, Any]:
    """Log LVIS AP and Fixed AP of a checkpoint to MLflow, and the same images each time with its detections drawn.

    Returns:
        The metrics, which Ray Train keeps with the checkpoint.
    """
    with checkpoint.as_directory() as folder:
        state = load_state(Path(folder))
    predictor = trained_predictor(args.job, state, args.dataset)
    evaluated = evaluate(predictor, args.dataset, data_root=args.data_root, console=Console(quiet=True))
    metrics = {f"val/{name}": value for name, value in evaluated.metrics.to_dict().items()}
    logger = RunLogger(args.tracking_uri, args.run_id)
    logger.log(metrics, step=state.step)
    with tempfile.TemporaryDirectory() as name:
        images = sample_images(args.dataset, evaluated, args.data_root, folder=Path(name))
        logger.log_files(*images, folder=f"detections/step_{state.step:09d}")
    logger.flush()
    return metrics
