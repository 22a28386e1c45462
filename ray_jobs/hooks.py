"""Training hooks: logging to MLflow, checkpoints to Ray Train, preemption notices, the progress board."""

import json
import os
from collections.abc import Callable, Mapping

import ray.train
from ray.train import CheckpointUploadMode

from detclipv2.training.checkpoint import TrainState, save_state
from detclipv2.training.metrics import SkippedStep
from detclipv2.training.schedule import Schedule
from ray_jobs.job_config import JobConfig
from ray_jobs.progress import Progress, ProgressBoard
from ray_jobs.run_storage import RunStorage
from ray_jobs.tracking import RunLogger

UNSENT_NAME = "unsent_metrics.json"  # beside a checkpoint: metrics that MLflow had not taken when it was written
WAITING_NAME = "waiting_metrics.json"  # beside a checkpoint: metrics of steps that no logged mean covers yet
# Asking whether a machine is about to go is a barrier over all workers: now and then is often enough for notices of a minute.
STEPS_BETWEEN_NOTICES = 10
_NOTICES_COME = os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "1") != "0"  # Ray Train gives it to its workers


class WorkerHooks:
    """The hooks of every rank; all ranks call them at the same steps."""

    def __init__(self, job: JobConfig, logger: RunLogger, *, rank: int) -> None:
        self.job = job
        self.logger = logger
        self.rank = rank
        self._answered = False

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing: rank 0 logs, and its losses are representative."""

    def save(self, step: int, state: Callable[[], TrainState]) -> None:
        """Join rank 0's ``ray.train.report`` barrier."""
        ray.train.report({"step": step}, checkpoint_dir_name=RunStorage.checkpoint_name(step))

    def skipped(self, step: int, skipped: SkippedStep) -> None:
        """Keep which samples this rank had in a step whose gradient was not finite."""
        record = {
            "step": step,
            "rank": self.rank,
            "supervision": skipped.supervision,
            "keys": skipped.keys,
            "losses": {name: str(value) for name, value in skipped.losses.items()},  # JSON has no infinity
            "grad_norm": str(skipped.norm),
        }
        name = f"skipped_steps/step_{step:09d}_rank_{self.rank}.json"
        self.logger.log_record(record, name)

    def wants_checkpoint(self, step: int) -> bool:
        """Whether a machine is about to be taken away, and this is the first step that knows."""
        if not _NOTICES_COME or self._answered or step % STEPS_BETWEEN_NOTICES:
            return False
        self._answered = ray.train.get_preemption_info() is not None
        return self._answered


class RankZeroHooks(WorkerHooks):
    """Metrics to MLflow, checkpoints to Ray Train, the step to the progress board.

    ``schedule`` is the training's from where this attempt begins, ``waiting`` the metrics that were not yet logged at its
    last checkpoint, ``unsent`` those that MLflow had not taken by then.
    """

    def __init__(
        self,
        job: JobConfig,
        logger: RunLogger,
        *,
        board: ProgressBoard,
        schedule: Schedule,
        waiting: Mapping[str, list[float]],
        unsent: str | None,
        storage: RunStorage,
    ) -> None:
        super().__init__(job, logger, rank=0)
        self.num_steps = schedule.num_steps
        self.progress = Progress(board=board, types=schedule.types_left, done=schedule.done)
        self.logged = logger.last_step("grad_norm")
        if unsent is not None:
            logger.resend(unsent, after=self.logged)
        self.storage = storage
        storage.remove_leftovers()
        self.waiting = {name: list(values) for name, values in waiting.items()}
        logger.watch_system()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log means over ``log_every`` steps, once, however often a resumed run repeats them."""
        for name, value in metrics.items():
            self.waiting.setdefault(name, []).append(float(value))
        self.progress.step(step, metrics, num_unsent=0 if self.logger.is_reached else self.logger.num_unsent)
        if step % self.job.train.log_every == 0:
            if step > self.logged:
                self.logger.log({name: sum(values) / len(values) for name, values in self.waiting.items()}, step=step)
            self.waiting.clear()

    def save(self, step: int, state: Callable[[], TrainState]) -> None:
        """Write a checkpoint to this machine; Ray Train uploads it while training goes on."""
        num_unsent = self.logger.flush()
        folder = self.storage.temporary_folder()  # removed when it is uploaded
        save_state(state(), folder)
        (folder / WAITING_NAME).write_text(json.dumps(self.waiting))
        if num_unsent:
            (folder / UNSENT_NAME).write_text(self.logger.unsent())
        is_last = step == self.num_steps
        ray.train.report(
            {"step": step},
            checkpoint=ray.train.Checkpoint.from_directory(folder),
            checkpoint_dir_name=RunStorage.checkpoint_name(step),
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            # The last one is evaluated by the driver.
            validation=self.job.validate_every is not None and step % self.job.validate_every == 0 and not is_last,
        )
        if is_last:
            self.logger.end_watch()
