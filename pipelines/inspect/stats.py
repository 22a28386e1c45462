"""Figures of a dataset: the funnel of every source, and what its shards hold."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.build.jobs import CONCEPTS
from pipelines.build.phrase_jobs import PHRASE_COUNTS_FILE
from pipelines.inspect.built_dataset import BuiltDataset
from pipelines.storage import DROPPED, PublishedTable, TableFile, kept_files
from pipelines.storage.table_store import files_by_shard
from schemas.shard_index import SHARD_INDEX, source_of

NUM_TOP_CONCEPTS = 20


@dataclass(frozen=True, kw_only=True)
class FunnelStep:
    """What an asset kept of one source."""

    asset: str
    unit: str  # what a row is
    rows_in: int
    rows_kept: int
    dropped: dict[str, int]  # by reason, the most frequent first


@dataclass(frozen=True, kw_only=True)
class SplitStats:
    """What the shards of a supervision type hold."""

    supervision: str
    num_samples: int
    shard_bytes: list[int]  # one a shard
    sample_bytes: list[int]  # 5th, 50th and 95th percentile
    boxes_per_image: dict[int, int]  # images by number of boxes
    concepts_per_image: dict[int, int]  # images by number of names or phrases
    top_concepts: list[tuple[str, int]]  # with their boxes (image-text: pairs), the most frequent first


@dataclass(frozen=True, kw_only=True)
class DatasetStats:
    """All figures of a dataset; ``funnels`` are by source."""

    name: str
    digest: str
    funnels: dict[str, list[FunnelStep]]
    splits: list[SplitStats]


def dataset_stats(dataset: BuiltDataset) -> DatasetStats:
    """Gather the figures. Images are not read, indexes and tables are."""
    return DatasetStats(
        name=dataset.manifest.name,
        digest=dataset.manifest.digest,
        funnels=_funnels(dataset),
        splits=[_split_stats(dataset, supervision) for supervision in dataset.manifest.supervisions],
    )


def _funnels(dataset: BuiltDataset) -> dict[str, list[FunnelStep]]:
    funnels: dict[str, list[FunnelStep]] = {}
    for row in dataset.manifest.funnel:
        tables = dataset.tables(row["stage"])
        for source, counts in sorted(_counts_by_source(tables).items()):
            kept, dropped = counts.pop("", 0), dict(counts.most_common())
            step = FunnelStep(
                asset=row["stage"],
                unit=row["unit"],
                rows_in=kept + sum(dropped.values()),
                rows_kept=kept,
                dropped=dropped,
            )
            funnels.setdefault(source, []).append(step)
    return funnels


def _counts_by_source(tables: dict[str, PublishedTable]) -> dict[str, Counter[str]]:
    """Rows by reason, kept ones under the empty one. A shard's name is that of its source and a number."""
    counts: dict[str, Counter[str]] = {}
    kept, dropped = kept_files(tables), files_by_shard(tables, DROPPED)
    for shard, file in kept.items():
        counts.setdefault(source_of(shard), Counter())[""] += file.num_rows
    for shard, file in dropped.items():
        if file.num_rows:
            counts.setdefault(source_of(shard), Counter()).update(_reasons(file))
    if not kept:  # its rows are not kept as tables: boxes, validation images
        for shard, table in tables.items():
            source = counts.setdefault(source_of(shard), Counter())
            source[""] += table.manifest.rows_kept
            source.update(table.manifest.dropped)
    return counts


def _reasons(file: TableFile) -> dict[str, int]:
    counts = pc.value_counts(pq.read_table(file.local(), columns=["drop_reason"])["drop_reason"])
    return {count["values"].as_py(): count["counts"].as_py() for count in counts}


def _split_stats(dataset: BuiltDataset, supervision: str) -> SplitStats:
    split = dataset.manifest.supervisions[supervision]
    columns = ["num_bytes", "num_boxes", "num_concepts"]
    indexes = [dataset.index(supervision, shard).select(columns) for shard in range(len(split.shards))]
    index = pa.concat_tables(indexes) if indexes else SHARD_INDEX.empty_table()
    percentiles = pc.quantile(index["num_bytes"], q=[0.05, 0.5, 0.95], interpolation="nearest").to_pylist()
    return SplitStats(
        supervision=supervision,
        num_samples=split.num_samples,
        shard_bytes=[shard.num_bytes for shard in split.shards],
        sample_bytes=[int(value) for value in percentiles],
        boxes_per_image=_histogram(index["num_boxes"]),
        concepts_per_image=_histogram(index["num_concepts"]),
        top_concepts=_top_concepts(dataset, supervision),
    )


def _histogram(column: pa.ChunkedArray) -> dict[int, int]:
    counts = pc.value_counts(column)
    return dict(sorted((count["values"].as_py(), count["counts"].as_py()) for count in counts))


def _top_concepts(dataset: BuiltDataset, supervision: str) -> list[tuple[str, int]]:
    tables = list(_concept_counts(dataset, supervision))
    if not tables:
        return []
    total = pa.concat_tables(tables).group_by("concept").aggregate([("count", "sum")])
    total = total.sort_by([("count_sum", "descending"), ("concept", "ascending")]).slice(0, NUM_TOP_CONCEPTS)
    return list(zip(total["concept"].to_pylist(), total["count_sum"].to_pylist(), strict=True))


def _concept_counts(dataset: BuiltDataset, supervision: str) -> Iterator[pa.Table]:
    """Columns ``concept`` and ``count``."""
    if supervision == "image_text":
        for table in dataset.tables("statistics").values():
            counts = pq.read_table(table.file(PHRASE_COUNTS_FILE).local(), columns=["phrase", "num_pairs"])
            yield counts.rename_columns(["concept", "count"]).cast(_COUNTS)
    else:
        for table in dataset.tables(f"{supervision}_shards").values():
            counts = pq.read_table(table.file(CONCEPTS).local(), columns=["concept", "num_boxes"])
            yield counts.rename_columns(["concept", "count"]).cast(_COUNTS)


_COUNTS = pa.schema([("concept", pa.string()), ("count", pa.int64())])
