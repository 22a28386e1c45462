"""Random samples of a dataset, and of the rows that were dropped on the way to it."""

import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from pipelines.fetch.download import IMAGES_TAR_NAME
from pipelines.inspect.built_dataset import BuiltDataset
from pipelines.storage import DROPPED, Location, PublishedTable, format_counts
from pipelines.storage.table_store import files_by_shard
from pipelines.storage.tars import read_tar, tar_extents
from schemas.manifest import first_error
from schemas.training import TrainingSample


@dataclass(frozen=True, kw_only=True)
class ShownSample:
    """A training sample with its image."""

    key: str
    jpeg: bytes
    annotation: TrainingSample


@dataclass(frozen=True, kw_only=True)
class DroppedRow:
    """An image-text pair that was dropped; ``jpeg`` is None where no image was downloaded."""

    key: str
    url: str
    caption: str
    asset: str  # that dropped it
    jpeg: bytes | None


@dataclass(frozen=True, kw_only=True)
class DrawnRows:
    """Some of the ``total`` rows that were dropped for a reason."""

    rows: list[DroppedRow]
    total: int


def draw_samples(dataset: BuiltDataset, supervision: str, *, num: int, seed: int) -> list[ShownSample]:
    """Samples drawn without repetition; from each shard only their bytes are read.

    Raises:
        ValueError: the dataset has none of this type, or is damaged.
    """
    split = dataset.manifest.supervisions.get(supervision)
    if split is None:
        present = ", ".join(sorted(dataset.manifest.supervisions))
        raise ValueError(f"--supervision {supervision}: dataset {dataset.manifest.name} has {present}")
    numbers = sorted(random.Random(seed).sample(range(split.num_samples), min(num, split.num_samples)))
    starts = list(accumulate((shard.num_rows for shard in split.shards), initial=0))
    if starts[-1] != split.num_samples:
        raise ValueError(
            f"dataset {dataset.manifest.name}: its manifest counts {split.num_samples} samples, its shards {starts[-1]}"
        )
    shown = []
    for shard, group in groupby(numbers, key=lambda number: bisect_right(starts, number) - 1):
        path, offsets = dataset.root / split.shards[shard].path, dataset.index(supervision, shard)["offset"].to_pylist()
        shown += [_sample_at(path, offsets, number - starts[shard]) for number in group]
    return shown


def _sample_at(path: Location, offsets: Sequence[int], position: int) -> ShownSample:
    """Raises ValueError where the index or the shard is damaged."""
    try:
        sample = next(read_tar(path, offset=offsets[position]))
        annotation = TrainingSample.model_validate_json(sample.members["json"])
        return ShownSample(key=sample.key, jpeg=sample.members["jpg"], annotation=annotation)
    except (LookupError, OSError, StopIteration, ValueError) as error:
        why = first_error(error) if isinstance(error, ValidationError) else error or type(error).__name__
        raise ValueError(f"{path}: sample {position} cannot be read ({why}): see `detclip data verify`") from error


def draw_dropped(dataset: BuiltDataset, reason: str, *, num: int, seed: int) -> DrawnRows:
    """Rows that were dropped for a reason, drawn without repetition, with their images where there are any.

    Raises:
        ValueError: no row was dropped for it, or only boxes were, which are counted and not kept.
    """
    found = list(_dropped(dataset, reason))
    if not found:
        counts = Counter[str]()
        for row in dataset.manifest.funnel:
            counts.update(row["dropped"])
        if reason in counts:
            raise ValueError(f"--dropped {reason}: it was counted {counts[reason]} times, but nothing was kept to show")
        raise ValueError(f"--dropped {reason}: nothing was dropped for it; reasons are {format_counts(counts)}")
    shown = random.Random(seed).sample(found, min(num, len(found)))
    images = _images(dataset.tables("images"), {(shard, row["key"]) for shard, _, row in shown})
    rows = [
        DroppedRow(**row, asset=asset, jpeg=images.get((shard, row["key"])))
        for shard, asset, row in sorted(shown, key=lambda item: (item[0], item[2]["key"]))
    ]
    return DrawnRows(rows=rows, total=len(found))


def _dropped(dataset: BuiltDataset, reason: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Shard, asset and row."""
    for funnel_row in dataset.manifest.funnel:
        asset = funnel_row["stage"]
        if reason not in funnel_row["dropped"]:
            continue
        for shard, file in files_by_shard(dataset.tables(asset), DROPPED).items():
            table = pq.read_table(file.local(), columns=["key", "url", "caption", "drop_reason"])
            for row in table.filter(pc.field("drop_reason") == reason).drop_columns("drop_reason").to_pylist():
                yield shard, asset, row


def _images(tables: dict[str, PublishedTable], wanted: set[tuple[str, str]]) -> dict[tuple[str, str], bytes]:
    """JPEGs by shard and key."""
    images = {}
    for shard in sorted({shard for shard, _ in wanted} & tables.keys()):
        path = tables[shard].file(IMAGES_TAR_NAME).path
        offsets = {extent.key: extent.offset for extent in tar_extents(path)}
        for key in sorted(key for name, key in wanted if name == shard and key in offsets):
            images[shard, key] = next(read_tar(path, offset=offsets[key])).members["jpg"]
    return images
