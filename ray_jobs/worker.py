"""What runs in each Ray Train worker: streams, model, and the hooks of the loop."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import ray
import ray.train
import ray.train.torch
import torch
from mlflow.tracking import MlflowClient

from detclipv2.config import Supervision
from detclipv2.data.loader import Shard, Stream
from detclipv2.losses.hybrid import HybridObjective
from detclipv2.training.checkpoint import TrainState, load_state, save_state
from detclipv2.training.loop import Training, train
from pipelines.storage import Location
from ray_jobs.job import JobConfig
from ray_jobs.tracking import SYSTEM_METRICS_INTERVAL_S, last_logged_step, log_metrics
from schemas.manifest import DatasetManifest, SupervisionSplit


@dataclass(frozen=True, kw_only=True)
class WorkerArgs:
    """All that a worker is told."""

    job: JobConfig
    dataset: DatasetManifest
    data_root: Location  # absolute, by the driver: a worker has another current folder
    tracking_uri: str
    run_id: str
    progress: Any  # handle of the progress board, an actor


def train_worker(config: dict[str, WorkerArgs]) -> None:
    """Train on this worker, from the latest checkpoint if there is one."""
    args = config["args"]
    job = args.job
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(job.train.seed)
    objective = HybridObjective(job.detector(), job.train.loss).eval()  # until the loop trains it
    encoder = objective.detector.text_encoder
    splits = {name: args.dataset.supervisions[name] for name in job.train.supervisions()}
    categories = splits["detection"].vocabulary if "detection" in splits else []
    phrases = splits["grounding"].vocabulary if "grounding" in splits else []
    # Once, before training changes the encoder: a category keeps its text, and so does a resumed run.
    enriched = dict(zip(categories, job.enricher(encoder).texts(categories), strict=True)) if categories else {}
    if job.start_from is None:  # a trained projection has found its bias
        encoder.centre(sorted({*enriched.values(), *phrases}))
    # Each supervision type trains other parameters (Eq. 6 of arXiv:2304.04514).
    wrapped = ray.train.torch.prepare_model(objective, parallel_strategy_kwargs={"find_unused_parameters": True})
    streams = {
        supervision: Stream(
            supervision=supervision,
            shards=[
                Shard(url=str(args.data_root / entry.path), num_samples=entry.num_rows)
                for entry in args.dataset.supervisions[supervision].shards
            ],
            config=settings,
            vocabulary=splits[supervision].vocabulary,
            seed=job.train.seed,
            rank=rank,
            world_size=world_size,
            caption_as_concept=job.train.loss.caption_as_concept,
            texts=enriched if supervision == "detection" else {},
            dictionary=concepts_of(job, splits) if supervision == "grounding" else [],
        )
        for supervision, settings in job.train.supervisions().items()
    }
    training = Training(
        objective=objective, wrapped=wrapped, streams=streams, config=job.train, device=ray.train.torch.get_device()
    )
    hooks = RankZeroHooks(args) if rank == 0 else OtherRankHooks()
    train(training, hooks, resume=latest_state())


def concepts_of(job: JobConfig, splits: Mapping[Supervision, SupervisionSplit]) -> list[str]:
    """What negatives of grounding are drawn from besides its own phrases.

    These are the names of the concept dictionary (section 3.1 of arXiv:2304.04514), if there is one, and the common phrases of
    the captions that take part: no other loss tells a region that it is not what only captions name.
    """
    dictionary = job.dictionary()
    captions = splits["image_text"].vocabulary if "image_text" in splits else []
    return [*captions, *([] if dictionary is None else dictionary.definitions)]


def latest_state() -> TrainState | None:
    """The state in the run's latest checkpoint, or None at the beginning."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return load_state(Path(folder))


class OtherRankHooks:
    """Ranks other than the first only meet the barrier of a checkpoint."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing: the first rank's losses are representative, and its books are the only ones."""

    def save(self, step: int, state: TrainState) -> None:
        """Meet the first rank at the barrier."""
        ray.train.report({"step": step})


class RankZeroHooks:
    """Metrics to MLflow, checkpoints to Ray Train, the step to the progress board."""

    def __init__(self, args: WorkerArgs) -> None:
        self.args = args
        self.client = MlflowClient(args.tracking_uri)
        self.logged = last_logged_step(self.client, args.run_id, "learning_rate")
        self.waiting: dict[str, list[float]] = {}
        mlflow.set_tracking_uri(args.tracking_uri)
        mlflow.set_system_metrics_sampling_interval(SYSTEM_METRICS_INTERVAL_S)
        mlflow.start_run(run_id=args.run_id, log_system_metrics=True)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Means over ``log_every`` steps go on the books, once, however often a resumed run repeats them."""
        for name, value in metrics.items():
            self.waiting.setdefault(name, []).append(value)
        losses = {name: value for name, value in metrics.items() if name.startswith("loss/")}
        self.args.progress.update.remote(step, losses)
        if step % self.args.job.train.log_every == 0:
            if step > self.logged:
                means = {name: sum(values) / len(values) for name, values in self.waiting.items()}
                log_metrics(self.client, self.args.run_id, means, step=step)
            self.waiting.clear()

    def save(self, step: int, state: TrainState) -> None:
        """Write a checkpoint and hand it to Ray Train."""
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
            save_state(state, Path(folder))
            ray.train.report({"step": step}, checkpoint=ray.train.Checkpoint.from_directory(folder))
        if step == self.args.job.train.num_steps:
            # The last sample of the machine's load; the driver says how the run ended.
            mlflow.end_run()
