"""Ray Train worker function: streams, model, and the training loop."""

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import ray
import ray.train
import ray.train.torch
import torch
from torch import nn

from detclipv2.config import Supervision
from detclipv2.data.loader import Stream
from detclipv2.data.tar_shards import Shard
from detclipv2.distributed import gather_objects
from detclipv2.losses.hybrid import HybridObjective
from detclipv2.planning.training_plan import gpu_of
from detclipv2.training.checkpoint import TrainState
from detclipv2.training.loop import Training, train
from pipelines.storage import Location
from ray_jobs.dataset_files import shard_index
from ray_jobs.hooks import UNSENT_NAME, WAITING_NAME, RankZeroHooks, WorkerHooks
from ray_jobs.job_config import JobConfig
from ray_jobs.progress import ProgressBoard
from ray_jobs.run_storage import RunStorage
from ray_jobs.tracking import RunLogger
from schemas.manifest import DatasetManifest, FileEntry, SupervisionSplit

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WorkerArgs:
    """Arguments of a worker."""

    job: JobConfig
    dataset: DatasetManifest
    data_root: Location  # absolute, by the driver: a worker has another current folder
    storage: RunStorage
    tracking_uri: str
    run_id: str
    flops_per_image: Mapping[Supervision, float]  # of a training step, by type


def train_worker(config: dict[str, WorkerArgs]) -> int:
    """Train on this worker, from the newest whole checkpoint if there is one; return the last step."""
    args = config["args"]
    context = ray.train.get_context()
    rank = context.get_world_rank()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    training = build_training(
        args.job,
        args.dataset,
        data_root=args.data_root,
        rank=rank,
        world_size=context.get_world_size(),
        device=ray.train.torch.get_device(),
        # Each supervision type trains other parameters (Eq. 6 of arXiv:2304.04514).
        wrap=lambda model: ray.train.torch.prepare_model(
            model, parallel_strategy_kwargs={"find_unused_parameters": True}
        ),
        flops_per_image=args.flops_per_image,
    )
    state = resume_state(args.storage, rank=rank)
    schedule = training.schedule(() if state is None else state.segments)
    run_logger = RunLogger(args.tracking_uri, args.run_id)
    if rank == 0:
        waiting = None if state is None else args.storage.side_file(state.step, WAITING_NAME)
        hooks: WorkerHooks = RankZeroHooks(
            args.job,
            run_logger,
            board=ProgressBoard(run_id=args.run_id),
            schedule=schedule,
            waiting={} if waiting is None else json.loads(waiting),
            unsent=None if state is None else args.storage.side_file(state.step, UNSENT_NAME),
            storage=args.storage,
        )
    else:
        hooks = WorkerHooks(args.job, run_logger, rank=rank)
    train(training, hooks, resume=state)
    return schedule.num_steps


def build_training(
    job: JobConfig,
    dataset: DatasetManifest,
    *,
    data_root: Location,
    rank: int,
    world_size: int,
    device: torch.device,
    wrap: Callable[[nn.Module], nn.Module],
    flops_per_image: Mapping[Supervision, float] = MappingProxyType({}),
) -> Training:
    """One rank's training of a job: the objective and its streams.

    ``wrap`` moves the objective to the device and makes it train with the other ranks. The metrics need ``flops_per_image``,
    operations of a step for one image of each type.
    """
    torch.manual_seed(job.train.seed)
    objective = HybridObjective(job.detector(), job.train.loss).eval()  # until the loop trains it
    encoder = objective.detector.text_encoder
    splits = {name: dataset.supervisions[name] for name in job.train.supervisions()}
    categories = splits["detection"].vocabulary if "detection" in splits else []
    phrases = splits["grounding"].vocabulary if "grounding" in splits else []
    # Once, before training changes the encoder: a category keeps its text, and so does a resumed run.
    enriched = dict(zip(categories, job.enricher(encoder).texts(categories), strict=True)) if categories else {}
    if job.start_from is None:  # a trained projection has found its bias
        encoder.centre(sorted({*enriched.values(), *phrases}))
    streams = {
        supervision: Stream(
            supervision=supervision,
            shards=shards_of(splits[supervision], data_root=data_root),
            config=settings,
            vocabulary=splits[supervision].vocabulary,
            seed=job.train.seed,
            rank=rank,
            world_size=world_size,
            loader_workers=job.train.loader_workers,
            prefetch_batches=job.train.prefetch_batches,
            caption_as_concept=job.train.loss.caption_as_concept,
            texts=enriched if supervision == "detection" else {},
            dictionary=concepts_of(job, splits) if supervision == "grounding" else [],
        )
        for supervision, settings in job.train.supervisions().items()
    }
    gpu = gpu_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return Training(
        objective=objective,
        wrapped=wrap(objective),
        streams=streams,
        config=job.train,
        device=device,
        flops_per_image=flops_per_image,
        peak_flops_per_s=None if gpu is None else gpu.peak_flops_per_s,
    )


def shards_of(split: SupervisionSplit, *, data_root: Location) -> list[Shard]:
    """The shards of a supervision type, each with its index where the dataset has one."""
    indexes: Sequence[FileEntry | None] = split.indexes or [None] * len(split.shards)
    return [
        Shard(
            url=str(data_root / entry.path),
            num_samples=entry.num_rows,
            index=None if index is None else partial(shard_index, index, data_root=data_root),
        )
        for entry, index in zip(split.shards, indexes, strict=True)
    ]


def concepts_of(job: JobConfig, splits: Mapping[Supervision, SupervisionSplit]) -> list[str]:
    """What negatives of grounding are drawn from besides its own phrases.

    These are the names of the concept dictionary (section 3.1 of arXiv:2304.04514), if there is one, and the common phrases of
    the captions that take part: no other loss tells a region that it is not what only captions name.
    """
    dictionary = job.dictionary()
    captions = splits["image_text"].vocabulary if "image_text" in splits else []
    return [*captions, *([] if dictionary is None else dictionary.definitions)]


def resume_state(storage: RunStorage, *, rank: int) -> TrainState | None:
    """The newest whole checkpoint of the run, the same on every rank; None at the beginning."""
    state: TrainState | None = None
    if rank == 0:
        state, problems = storage.newest()
        for problem in problems:
            logger.warning("%s; going on from an earlier checkpoint", problem)
    step = gather_objects(None if state is None else state.step)[0]
    return storage.load(step) if rank > 0 and step is not None else state
