"""Training job checks: all that a user can have got wrong is an error here, before a cluster, a worker or a run of MLflow."""

import os
from dataclasses import dataclass

import torch
from rich.console import Console

from detclipv2.losses.hybrid import HybridObjective
from pipelines.storage import data_root
from ray_jobs.job_config import JobConfig
from ray_jobs.recipe_check import check_recipe
from ray_jobs.run_storage import RunStorage
from ray_jobs.shard_check import check_shards
from ray_jobs.tracking import check_tracking, tracking_uri
from ray_jobs.writable import check_folder
from schemas.manifest import DatasetManifest, read_dataset_manifest


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """A training that can begin, go on, or has reached its end."""

    job: JobConfig  # as the dataset allows it
    dataset: DatasetManifest
    storage: RunStorage
    finished_step: int | None  # the last step of a training that reached it


def prepared_run(job: JobConfig, *, console: Console) -> PreparedRun:
    """Check a job, its dataset, its model and its folders; say what is left out.

    Raises:
        ValueError: something is missing or damaged, cannot be written, or does not fit together.
    """
    dataset = read_dataset_manifest(job.data)
    check_folder(job.outputs, option="outputs")
    check_tracking(tracking_uri(job.tracking_uri, job.outputs))
    storage = storage_of(job, dataset)
    check_folder(storage.root, option="storage")
    step = storage.finished_step()
    if step is not None:
        return PreparedRun(job=job.for_dataset(dataset), dataset=dataset, storage=storage, finished_step=step)
    if job.use_gpu and "RAY_ADDRESS" not in os.environ and not torch.cuda.is_available():
        raise ValueError("use_gpu: this machine has no GPU; train with --no-use-gpu, or on a Ray cluster (RAY_ADDRESS)")
    check_shards(dataset, job.data_root, console=console)
    job, notes = check_recipe(job, dataset)
    # An error of the model is raised here, once, rather than by every worker.
    job.enricher(HybridObjective(job.detector(), job.train.loss).detector.text_encoder)
    for note in notes:
        console.print(f"check      {note}", highlight=False, soft_wrap=True)
    return PreparedRun(job=job, dataset=dataset, storage=storage, finished_step=None)


def storage_of(job: JobConfig, dataset: DatasetManifest) -> RunStorage:
    """Where the checkpoints of a job's training are."""
    root = data_root(job.storage or job.outputs / "runs")
    return RunStorage(root=root, name=job.for_dataset(dataset).run_name(dataset))
