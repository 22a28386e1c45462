"""Training job checks: all that a user can have got wrong is an error here, before a cluster, a worker or a run of MLflow."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from rich.console import Console

from detclipv2.losses.hybrid import HybridObjective
from pipelines.storage import NUM_CONCURRENT, Location, data_root
from ray_jobs.job_config import JobConfig
from ray_jobs.recipe_check import check_recipe
from ray_jobs.run_storage import RunStorage
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
    check_shards(dataset, job.data_root)
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
