"""Recipe check: what a dataset does not allow, or would teach nothing, is an error before a cluster or a run of MLflow starts."""

from collections import Counter
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from detclipv2.config import Supervision
from detclipv2.training.schedule import Schedule, global_batch_sizes, pairs_left_out
from ray_jobs.dataset_files import ValidationSet, local_file
from ray_jobs.job_config import JobConfig
from schemas.manifest import DatasetManifest

# A note is a line for whoever trains; what cannot go on raises ValueError.
Check = Callable[[JobConfig, DatasetManifest], Iterator[str]]


def check_recipe(job: JobConfig, dataset: DatasetManifest) -> tuple[JobConfig, list[str]]:
    """The job as the dataset allows it, and lines that say what is left out, repeated or undefined.

    Raises:
        ValueError: none of the recipe's types is in the dataset, a boxed type has no box, pairs would never take part, or a file
            of the dataset is missing or damaged.
    """
    fitted = job.for_dataset(dataset)
    notes = list(_types_left_out(job, fitted))
    for check in CHECKS:
        notes += check(fitted, dataset)
    return fitted, notes


def _types_left_out(job: JobConfig, fitted: JobConfig) -> Iterator[str]:
    missing = [name for name in job.train.supervisions() if name not in fitted.train.supervisions()]
    if missing:
        yield f"without {', '.join(missing)}: the dataset has no such samples"
    if fitted.train.image_text_after != job.train.image_text_after:
        yield f"image-text pairs from the first step on, not after {job.train.image_text_after}: nothing else is trained"


def _boxes(job: JobConfig, dataset: DatasetManifest) -> Iterator[str]:
    """Raise ValueError where a boxed type has no box at all: its losses would be zero, or without a text to compare with."""
    for name in job.train.supervisions():
        if name == "image_text" or _has_box(job, dataset, name):
            continue
        lost = [row["dropped"] for row in dataset.funnel if row.get("stage") == f"{name}_shards"]
        reasons = ", ".join(f"{reason} {count}" for dropped in lost for reason, count in sorted(dropped.items()))
        raise ValueError(
            f"{name}: none of the dataset's {dataset.supervisions[name].num_samples} image(s) has a box"
            f"{f' (dropped by the build: {reasons})' if reasons else ''}: correct the annotations and build it again, or"
            f" leave the type out with --train.{name} off"
        )
    yield from ()


def _has_box(job: JobConfig, dataset: DatasetManifest, name: Supervision) -> bool:
    """Whether any sample has a box, by the indexes of the shards: the first one nearly always has the answer."""
    indexes = dataset.supervisions[name].indexes
    if not dataset.boxed_concepts or not indexes:  # without an index, as in older builds, it is not known of each type
        return bool(dataset.boxed_concepts)
    for entry in indexes:
        try:
            num_boxes = pq.read_table(local_file(entry, data_root=job.data_root), columns=["num_boxes"])["num_boxes"]
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ValueError(
                f"shard index {job.data_root / entry.path} cannot be read: {error}; build the dataset again"
            ) from error
        if pc.sum(num_boxes).as_py():
            return True
    return False


def _length(job: JobConfig, dataset: DatasetManifest) -> Iterator[str]:
    """Raise ValueError where pairs never take part; say what else no step trains."""
    num_samples = _num_samples(job, dataset)
    if problem := pairs_left_out(job.train, num_samples, world_size=job.num_workers):
        raise ValueError(f"{problem}, or leave them out with --train.image-text off")
    taken = Counter(Schedule(config=job.train, num_samples=num_samples, world_size=job.num_workers).types)
    never = [name for name in num_samples if name not in taken]
    if never:
        yield f"no step trains {', '.join(never)}: {taken.total()} step(s) are fewer than an epoch has; train longer"


def _batches(job: JobConfig, dataset: DatasetManifest) -> Iterator[str]:
    """Say which types have fewer samples than a step takes: batches are always full."""
    num_samples = _num_samples(job, dataset)
    for name, size in global_batch_sizes(job.train, world_size=job.num_workers).items():
        if num_samples[name] < size:
            yield (
                f"{name}: the dataset has {num_samples[name]} sample(s), a step takes {size}: some are repeated within it;"
                f" a smaller --train.{name.replace('_', '-')}.batch-size, or fewer workers, would avoid that"
            )


def _validation(job: JobConfig, dataset: DatasetManifest) -> Iterator[str]:
    """Say what cannot be measured; raise ValueError where the validation set's files are gone, before hours of training."""
    if dataset.validation_annotations is None:
        yield "no validation set: nothing is measured" + (
            "" if job.validate_every is None else ", and --validate-every has no effect"
        )
        return
    try:
        validation = ValidationSet(dataset, data_root=job.data_root)
        first = next(iter(validation.file_names), None)
        if first is not None and not validation.path(first).is_file():
            raise FileNotFoundError(validation.folder / validation.file_names[first])
        boxes = len(validation.ground_truth["annotations"])
    except (OSError, KeyError, TypeError) as error:
        raise ValueError(
            f"the validation set of {job.data} cannot be read: {type(error).__name__}: {error}; build the dataset again"
        ) from error
    if not boxes:
        yield f"the validation set has {len(validation.file_names)} image(s) and no box: its figures are undefined (-)"


def _num_samples(job: JobConfig, dataset: DatasetManifest) -> dict[Supervision, int]:
    return {name: dataset.supervisions[name].num_samples for name in job.train.supervisions()}


CHECKS: tuple[Check, ...] = (_boxes, _length, _batches, _validation)
