"""Pre-training of a detector: ``python ray_jobs/pretrain.py [RECIPE] [OPTIONS]``, on a laptop or as a Ray job.

The recipe, ``demo:pretrain`` unless given, is a complete configuration; every option replaces one value of it
(``--train.num-steps 100``). The same job submitted again goes on where it stopped.
"""

import logging
import os
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

from pipelines.build.ray_cluster import connect  # sets what Ray reads from the environment when it is imported

# isort: split
import ray
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, ValidationConfig
from ray.train.torch import TorchTrainer
from rich.console import Console

from detclipv2.planning.training_plan import train_flops
from detclipv2.terminal import InertConsole
from detclipv2.training.checkpoint import TrainState
from ray_jobs.command_line import recipe_argument, run_cli
from ray_jobs.hooks import UNSENT_NAME
from ray_jobs.interrupts import is_ending, ray_train_ends
from ray_jobs.job_config import JobConfig, load_recipe
from ray_jobs.plan_command import data_sizes
from ray_jobs.prepare import PreparedRun, prepared_run
from ray_jobs.progress import ProgressBoard, Status, progress_of
from ray_jobs.register_model import evaluate_and_register, validate_checkpoint
from ray_jobs.run_storage import RunStorage
from ray_jobs.tracking import Tracker
from ray_jobs.worker import WorkerArgs, train_worker
from ray_jobs.worker_errors import EndAtUserErrors, user_error
from schemas.manifest import DatasetManifest


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A training that reached its last step."""

    name: str
    state: TrainState


def pretrain(job: JobConfig, *, console: Console) -> TrainedRun:
    """Check the job, then train to the last step, from where an earlier attempt of the same name stopped.

    Raises:
        ValueError: what `prepared_run` finds, what no cluster like this can do, or what a worker could not read.
        RuntimeError: training failed more often than ``max_failures`` allows.
    """
    return train_prepared(prepared_run(job, console=console), console=console)


def train_prepared(run: PreparedRun, *, console: Console) -> TrainedRun:
    """Train a run that was checked; see `pretrain`."""
    with run.storage.locked():
        return _train_locked(run, console=console)


def _train_locked(run: PreparedRun, *, console: Console) -> TrainedRun:
    job, dataset, storage = run.job, run.dataset, run.storage
    step = storage.finished_step()  # another training of this name may have reached it since it was prepared
    dashboard = None
    if step is None:
        dashboard = connect()
        check_cluster(job, console=console)
    tracker = Tracker(job, dataset)
    status = "FINISHED"
    try:
        if step is None:
            step = _fit(job, dataset, tracker, storage, dashboard=dashboard, console=console)
        else:
            console.print(f"training   up to date: run {storage.name} reached its last step, {step}", highlight=False)
        return TrainedRun(name=storage.name, state=storage.load(step))
    except BaseException as error:
        status = "KILLED" if isinstance(error, KeyboardInterrupt) or is_ending() else "FAILED"
        raise
    finally:
        steps = storage.steps()
        unsent = storage.side_file(steps[-1], UNSENT_NAME) if steps else None
        if problem := tracker.close(status, unsent=unsent):
            console.print(f"warning    {problem}", highlight=False, soft_wrap=True)


def check_cluster(job: JobConfig, *, console: Console) -> None:
    """Compare the workers with what the cluster has; Ray would wait for more without a word.

    A cluster that others run may grow, so that there the training waits, and says so.

    Raises:
        ValueError: the cluster is this machine, and has too little.
    """
    kind = "GPU" if job.use_gpu else "CPU"
    there, needed = int(ray.cluster_resources().get(kind, 0)), job.min_workers or job.num_workers
    if there >= needed:
        return
    lacking = f"{needed} worker(s) take a {kind} each, and the cluster has {there}"
    if "RAY_ADDRESS" in os.environ:
        console.print(f"check      {lacking}: training waits for more", highlight=False, soft_wrap=True)
        return
    remedy = f"--num-workers {there}" if there else "--no-use-gpu"
    raise ValueError(f"{lacking}: train with {remedy}, or on a larger Ray cluster (RAY_ADDRESS)")


def _fit(
    job: JobConfig,
    dataset: DatasetManifest,
    tracker: Tracker,
    storage: RunStorage,
    *,
    dashboard: str | None,
    console: Console,
) -> int:
    """Run Ray Train; return the last step."""
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
        flops_per_image=train_flops(job.model, job.train, sizes=data_sizes(dataset, job), world_size=job.num_workers),
    )
    num_workers: Any = job.num_workers if job.min_workers is None else (job.min_workers, job.num_workers)
    # Checkpoints are evaluated in a Ray task that takes no CPU: where none is to spare it would wait for the training's end.
    resources = {"num_cpus": 0, "num_gpus": job.validation_gpus}
    validation = ValidationConfig(fn=partial(validate_checkpoint, args=args), ray_remote_kwargs=resources)
    validates = job.validate_every is not None and dataset.validation_annotations is not None
    make_trainer: Any = TorchTrainer  # annotated as in version 1 of Ray Train
    callbacks: Any = [EndAtUserErrors()]  # this, too
    trainer = make_trainer(
        train_worker,
        train_loop_config={"args": args},
        scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=job.use_gpu),
        run_config=RunConfig(
            **storage.ray_arguments(),
            failure_config=FailureConfig(max_failures=job.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=job.num_checkpoints),
            callbacks=callbacks,
        ),
        validation_config=validation if validates else None,
    )
    try:
        with ray_train_ends(), progress_of(board, console=console):
            result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        if problem := user_error(error):
            raise ValueError(f"run {storage.name}: {problem}") from error
        raise RuntimeError(f"run {storage.name} failed: {error}; its checkpoints are in {storage.folder}") from error
    finally:
        storage.remove_leftovers()
    step: int = result.return_value
    storage.finish(step)
    return step


def main(job: JobConfig) -> None:
    """Train, evaluate, register, and say where everything is."""
    console = InertConsole()
    run = pretrain(job, console=console)
    evaluate_and_register(job, run.name, run.state, console=console)


if __name__ == "__main__":
    recipe = recipe_argument(default="demo:pretrain")
    run_cli(JobConfig, main, default=lambda: load_recipe(recipe))
