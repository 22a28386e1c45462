"""Pre-train a detector: ``python ray_jobs/pretrain.py [RECIPE] [OPTIONS]``, on a laptop or as a Ray job.

The recipe, ``demo:pretrain`` unless given, is a complete configuration; every option replaces one value of it
(``--train.num-steps 100``). The same job submitted again goes on where it stopped.
"""

import logging
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from rich.console import Console

from detclipv2.losses.hybrid import HybridObjective
from detclipv2.training.checkpoint import TrainState, load_state
from pipelines.runner.execute import connect
from pipelines.storage import NUM_CONCURRENT, Location
from ray_jobs.cli import run_cli
from ray_jobs.job import JobConfig, load_recipe
from ray_jobs.progress import progress_of, start_board
from ray_jobs.publish import evaluate_and_register
from ray_jobs.tracking import Tracker
from ray_jobs.worker import WorkerArgs, train_worker
from schemas.manifest import DatasetManifest, read_dataset_manifest

DEFAULT_RECIPE = "demo:pretrain"
NUM_CHECKPOINTS_KEPT = 2
FINISHED_NAME = "FINISHED"


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A training that reached its last step."""

    name: str
    run_id: str
    folder: Path
    state: TrainState


def pretrain(job: JobConfig, *, console: Console) -> TrainedRun:
    """Train to the last step, from where an earlier attempt of the same name stopped.

    Raises:
        ValueError: there is no dataset, or nothing in it that the recipe trains on.
        RuntimeError: training failed more often than ``max_failures`` allows.
    """
    dataset = read_dataset_manifest(job.data)
    job = job.for_dataset(dataset)
    name = job.run_name(dataset)
    folder = job.outputs.resolve() / "runs" / name
    finished = folder / FINISHED_NAME
    if not finished.is_file():
        check_shards(dataset, job.data_root)
        # What is wrong with the model is said here, once, and not by every worker.
        job.enricher(HybridObjective(job.detector(), job.train.loss).detector.text_encoder)
    tracker = Tracker(job, dataset)
    status = "FAILED"
    try:
        if finished.is_file():
            checkpoint = folder / finished.read_text().strip()
            console.print(
                f"training   up to date: run {name} reached its last step, {job.train.num_steps}", highlight=False
            )
        else:
            checkpoint = _fit(job, dataset, tracker, folder, console=console)
        status = "FINISHED"
        return TrainedRun(name=name, run_id=tracker.run_id, folder=folder, state=load_state(checkpoint))
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.close(status)


def check_shards(dataset: DatasetManifest, data_root: Location) -> None:
    """See that every shard is there and whole, before a cluster starts; on an object store this takes a request a shard.

    Raises:
        ValueError: one is missing or has another size than the manifest says.
    """
    shards = [entry for split in dataset.supervisions.values() for entry in split.shards]
    with ThreadPoolExecutor(NUM_CONCURRENT) as pool:
        sizes = pool.map(lambda entry: _num_bytes(data_root / entry.path), shards)
        for entry, num_bytes in zip(shards, sizes, strict=True):
            if num_bytes != entry.num_bytes:
                found = (
                    "is missing"
                    if num_bytes is None
                    else f"has {num_bytes} bytes, not {entry.num_bytes}: it was cut off"
                )
                raise ValueError(
                    f"shard {data_root / entry.path} {found}; build the dataset again, which makes only this shard anew"
                )


def _num_bytes(path: Location) -> int | None:
    """Size of a file, or None where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _fit(job: JobConfig, dataset: DatasetManifest, tracker: Tracker, folder: Path, *, console: Console) -> Path:
    """Run Ray Train; return the last checkpoint's folder."""
    connect()
    # Its wishes for the next version are not for whoever trains.
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    console.print(
        f"training   run {folder.name}: {job.train.num_steps} steps on {job.num_workers} workers,"
        f" {', '.join(job.train.supervisions())}",
        highlight=False,
    )
    board = start_board()
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "args": WorkerArgs(
                job=job,
                dataset=dataset,
                data_root=job.data_root,
                tracking_uri=tracker.uri,
                run_id=tracker.run_id,
                progress=board,
            )
        },
        scaling_config=ScalingConfig(num_workers=job.num_workers, use_gpu=job.use_gpu),
        run_config=RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            failure_config=FailureConfig(max_failures=job.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=NUM_CHECKPOINTS_KEPT),
        ),
    )
    try:
        with progress_of(board, num_steps=job.train.num_steps, console=console):
            result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise RuntimeError(f"run {folder.name} failed: {error}; its checkpoints are in {folder}") from error
    assert result.checkpoint is not None
    checkpoint = Path(result.checkpoint.path)
    (folder / FINISHED_NAME).write_text(f"{checkpoint.name}\n")
    return checkpoint


def main(job: JobConfig) -> None:
    """Train, evaluate, register, and say where everything is."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    console = Console()
    run = pretrain(job, console=console)
    evaluate_and_register(job, run.name, run.state, console=console)


if __name__ == "__main__":
    recipe = sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else DEFAULT_RECIPE
    run_cli(JobConfig, main, default=lambda: load_recipe(recipe))
