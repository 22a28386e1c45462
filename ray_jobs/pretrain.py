"""Pre-training of a detector: ``python ray_jobs/pretrain.py [RECIPE] [OPTIONS]``, on a laptop or as a Ray job.

The recipe, ``demo:pretrain`` unless given, is a complete configuration; every option replaces one value of it
(``--train.num-steps 100``). The same job submitted again goes on where it stopped.
"""

import logging
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from pipelines.build.ray_cluster import connect  # sets what Ray reads from the environment when it is imported

# isort: split
import ray
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, ValidationConfig
from ray.train.torch import TorchTrainer
from rich.console import Console

from detclipv2.losses.hybrid import HybridObjective
from detclipv2.planning.training_plan import train_flops
from detclipv2.training.checkpoint import TrainState
from detclipv2.training.schedule import pairs_left_out
from pipelines.storage import NUM_CONCURRENT, Location, data_root
from ray_jobs.command_line import recipe_argument, run_cli
from ray_jobs.job_config import JobConfig, load_recipe
from ray_jobs.plan_command import data_sizes
from ray_jobs.progress import ProgressBoard, Status, progress_of
from ray_jobs.register_model import evaluate_and_register, validate_checkpoint
from ray_jobs.run_storage import RunStorage
from ray_jobs.tracking import Tracker
from ray_jobs.worker import WorkerArgs, train_worker
from schemas.manifest import DatasetManifest, read_dataset_manifest


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A training that reached its last step."""

    name: str
    state: TrainState


def pretrain(job: JobConfig, *, console: Console) -> TrainedRun:
    """Train to the last step, from where an earlier attempt of the same name stopped.

    Raises:
        ValueError: there is no dataset, or nothing in it that the recipe trains on, or no client for such a storage.
        RuntimeError: training failed more often than ``max_failures`` allows.
    """
    dataset = read_dataset_manifest(job.data)
    job = job.for_dataset(dataset)
    storage = RunStorage(root=data_root(job.storage or job.outputs / "runs"), name=job.run_name(dataset))
    step = storage.finished_step()
    if step is None:
        check_shards(dataset, job.data_root)
        # An error of the model is raised here, once, rather than by every worker.
        job.enricher(HybridObjective(job.detector(), job.train.loss).detector.text_encoder)
    tracker = Tracker(job, dataset)
    status = "FAILED"
    try:
        if step is None:
            step = _fit(job, dataset, tracker, storage, console=console)
        else:
            console.print(f"training   up to date: run {storage.name} reached its last step, {step}", highlight=False)
        status = "FINISHED"
        return TrainedRun(name=storage.name, state=storage.load(step))
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.close(status)


def check_shards(dataset: DatasetManifest, data_root: Location) -> None:
    """Check the size of every shard before a cluster starts; on an object store this takes a request a shard.

    Raises:
        ValueError: one is missing or has another size than the manifest says.
    """
    shards = [entry for split in dataset.supervisions.values() for entry in split.shards]
    with ThreadPoolExecutor(NUM_CONCURRENT) as pool:
        for problem in filter(None, pool.map(lambda entry: _problem(data_root / entry.path, entry.num_bytes), shards)):
            raise ValueError(f"shard {problem}; build the dataset again, which makes only this shard again")


def _problem(path: Location, num_bytes: int) -> str | None:
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        return f"{path} is missing"
    return None if found == num_bytes else f"{path} has {found} bytes, not {num_bytes}: it was cut off"


def _fit(job: JobConfig, dataset: DatasetManifest, tracker: Tracker, storage: RunStorage, *, console: Console) -> int:
    """Run Ray Train; return the last step."""
    dashboard = connect()
    # Silence deprecation warnings, which are not for whoever trains.
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    storage.recover(num_to_keep=job.num_checkpoints)
    steps = storage.steps()
    fewest = "" if job.min_workers is None else f"{job.min_workers} to "
    workers = f"{fewest}{job.num_workers} worker{'s' if job.num_workers > 1 else ''}"
    since = f", going on after step {steps[-1]}" if steps else ""
    kinds = ", ".join(job.train.supervisions())
    console.print(f"training   run {storage.name}: {kinds} on {workers}{since}", highlight=False)
    sizes = data_sizes(dataset, job)
    num_samples = {name: size.num_samples for name, size in sizes.items()}
    if warning := pairs_left_out(job.train, num_samples, world_size=job.num_workers):
        console.print(f"           warning: {warning}", highlight=False, soft_wrap=True)
    links = [tracker.url() or "`make ui` shows its curves", *([f"Ray http://{dashboard}"] if dashboard else [])]
    console.print(f"           {', '.join(links)}", highlight=False, soft_wrap=True)
    board = ProgressBoard(run_id=tracker.run_id)
    board.update(Status())  # instead of an earlier attempt's
    args = WorkerArgs(
        job=job.absolute(),
        dataset=dataset,
        data_root=job.data_root,
        storage=storage,
        tracking_uri=tracker.uri,
        run_id=tracker.run_id,
        flops_per_image=train_flops(job.model, job.train, sizes=sizes, world_size=job.num_workers),
    )
    num_workers: Any = job.num_workers if job.min_workers is None else (job.min_workers, job.num_workers)
    # Checkpoints are evaluated in a Ray task that takes no CPU: where none is to spare it would wait for the training's end.
    resources = {"num_cpus": 0, "num_gpus": job.validation_gpus}
    validation = ValidationConfig(fn=partial(validate_checkpoint, args=args), ray_remote_kwargs=resources)
    validates = job.validate_every is not None and dataset.validation_annotations is not None
    make_trainer: Any = TorchTrainer  # annotated as in version 1 of Ray Train
    trainer = make_trainer(
        train_worker,
        train_loop_config={"args": args},
        scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=job.use_gpu),
        run_config=RunConfig(
            **storage.ray_arguments(),
            failure_config=FailureConfig(max_failures=job.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=job.num_checkpoints),
        ),
        validation_config=validation if validates else None,
    )
    try:
        with progress_of(board, console=console):
            result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise RuntimeError(f"run {storage.name} failed: {error}; its checkpoints are in {storage.folder}") from error
    step: int = result.return_value
    storage.finish(step)
    return step


def main(job: JobConfig) -> None:
    """Train, evaluate, register, and say where everything is."""
    console = Console()
    run = pretrain(job, console=console)
    evaluate_and_register(job, run.name, run.state, console=console)


if __name__ == "__main__":
    recipe = recipe_argument(default="demo:pretrain")
    run_cli(JobConfig, main, default=lambda: load_recipe(recipe))
