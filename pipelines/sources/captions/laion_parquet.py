"""Image-text pairs from Parquet files of URLs and captions, as LAION publishes them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from pipelines.sources.captions.columns import URL_COLUMNS
from pipelines.sources.captions.parquet_table import open_parquet, parquet_tables
from pipelines.sources.captions.remote_files import DataFile, find_files
from pipelines.sources.source import PairBlock


@dataclass(frozen=True, kw_only=True)
class LaionParquet:
    """A `pipelines.sources.source.PairSource`: rows in the order of the files' paths, then of the files.

    Each file is a block with shards of its own, so that a new part whose name sorts last disturbs no other. Columns are those
    of `pipelines.sources.captions.columns.URL_COLUMNS`; text may be strings or, as Spark and Impala write it, bytes. A caption
    that is not text is dropped by the next stage, and counted.

    Attributes:
        path: one file, a folder or a glob of part files, local or an fsspec URL.
        name: of the source, such as "laion400m".
    """

    path: str
    name: str

    def blocks(self, limit: int | None = None, *, num_rows: int) -> list[PairBlock]:
        """One a file with rows.

        Raises:
            ValueError: a file is not Parquet, or none has a row.
        """
        blocks, num_before, first_shard = [], 0, 0
        for file in find_files(self.path, endings=(".parquet",)):
            with open_parquet(file) as (parquet, _):
                count = parquet.metadata.num_rows
            taken = count if limit is None else min(count, limit - num_before)
            num_before += taken
            if not taken:
                continue
            block = PairBlock(
                name=f"{self.name}-{first_shard:05d}",
                first_shard=first_shard,
                config={"file": file.identity(is_whole=True), "num_pairs": taken, "pairs_per_shard": num_rows},
                num_rows=taken,
                read=partial(_read, file, taken, num_rows),
            )
            blocks.append(block)
            first_shard += math.ceil(taken / num_rows)
        if not blocks and limit != 0:
            raise ValueError(f"{self.path} holds no row")
        return blocks


def _read(file: DataFile, limit: int, num_rows: int) -> Iterator[pa.Table]:
    """The first ``limit`` rows of a file in tables of ``num_rows``; the last may have fewer."""
    num_left = limit
    waiting: list[pa.Table] = []
    for table in parquet_tables(
        file, URL_COLUMNS, num_rows=min(num_rows, limit)
    ):  # else more would be decoded than is asked for
        joined = pa.concat_tables([*waiting, table.slice(0, num_left)])
        num_left -= min(num_left, table.num_rows)
        while joined.num_rows >= num_rows:
            yield joined.slice(0, num_rows)
            joined = joined.slice(num_rows)
        waiting = [joined] if joined.num_rows else []
        if not num_left:
            break
    yield from waiting
