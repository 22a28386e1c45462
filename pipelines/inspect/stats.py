"""Figures of a dataset: the funnel of every source, and what its shards hold."""

from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.build.jobs import CONCEPTS
from pipelines.build.pair_jobs import rows_by_reason
from pipelines.build.phrase_jobs import PHRASE_COUNTS_FILE
from pipelines.inspect.built_dataset import BuiltDataset
from pipelines.storage import DROPPED, PublishedTable, kept_files
from pipelines.storage.table_store import files_by_shard
from schemas.shard_index import SHARD_INDEX, source_of

NUM_TOP_CONCEPTS = 20
_COUNTS = pa.schema([("concept", pa.string()), ("count", pa.int64())])


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
    num_samples: int  # images
    num_captions: int  # of image-text samples, else 0
    shard_bytes: list[int]  # one a shard
    sample_bytes: list[int]  # 5th, 50th and 95th percentile
    boxes_per_image: dict[int, int]  # images by number of boxes
    concepts_per_image: dict[int, int]  # images by number of names, or of the phrases of all their captions
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
    kept = kept_files(tables)
    for shard, file in kept.items():
        counts.setdefault(source_of(shard), Counter())[""] += file.num_rows
    for shard, file in files_by_shard(tables, DROPPED).items():
        if file.num_rows:
            counts.setdefault(source_of(shard), Counter()).update(rows_by_reason(file))
    if not kept:  # its rows are not kept as tables: boxes, validation images
        for shard, table in tables.items():
            source = counts.setdefault(source_of(shard), Counter())
            source[""] += table.manifest.rows_kept
            source.update(table.manifest.dropped)
    return counts


def _split_stats(dataset: BuiltDataset, supervision: str) -> SplitStats:
    split = dataset.manifest.supervisions[supervision]
    columns = ["num_bytes", "num_boxes", "num_concepts"]
    indexes = [dataset.index(supervision, shard).select(columns) for shard in range(len(split.shards))]
    index = pa.concat_tables(indexes) if indexes else SHARD_INDEX.empty_table()
    percentiles = pc.quantile(index["num_bytes"], q=[0.05, 0.5, 0.95], interpolation="nearest").to_pylist()
    return SplitStats(
        supervision=supervision,
        num_samples=split.num_samples,
        num_captions=dataset.num_captions if supervision == "image_text" else 0,
        shard_bytes=[shard.num_bytes for shard in split.shards],
        sample_bytes=[int(value) for value in percentiles],
        boxes_per_image=_histogram(index["num_boxes"]),
        concepts_per_image=_histogram(index["num_concepts"]),
        top_concepts=_top_concepts(dataset, supervision),
    )


def _histogram(column: pa.ChunkedArray) -> dict[int, int]:
    return dict(sorted((count["values"], count["counts"]) for count in pc.value_counts(column).to_pylist()))


def _top_concepts(dataset: BuiltDataset, supervision: str) -> list[tuple[str, int]]:
    asset, name, columns = f"{supervision}_shards", CONCEPTS, ["concept", "num_boxes"]
    if supervision == "image_text":
        asset, name, columns = "statistics", PHRASE_COUNTS_FILE, ["phrase", "num_pairs"]
    files = [table.file(name).local() for table in dataset.tables(asset).values()]
    tables = [pq.read_table(file, columns=columns).rename_columns(_COUNTS.names).cast(_COUNTS) for file in files]
    total = pa.concat_tables([_COUNTS.empty_table(), *tables]).group_by("concept").aggregate([("count", "sum")])
    total = total.sort_by([("count_sum", "descending"), ("concept", "ascending")]).slice(0, NUM_TOP_CONCEPTS)
    return list(zip(total["concept"].to_pylist(), total["count_sum"].to_pylist(), strict=True))
