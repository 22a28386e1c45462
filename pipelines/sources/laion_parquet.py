"""Image-text pairs from Parquet files of URLs and captions, as LAION publishes them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources.data_files import DataFile, find_files
from pipelines.stages.urls import PAIRS

_COLUMN_NAMES = {"url": "url", "text": "caption", "caption": "caption"}


@dataclass(frozen=True, kw_only=True)
class LaionParquet:
    """A `pipelines.sources.source.BatchedPairSource`: rows in the order of the files' paths, then of the files.

    A new part whose name sorts last adds rows at the end and disturbs no shard. Columns are ``URL`` and ``TEXT`` (or
    ``caption``) in any case; others are not read. A caption that is not text is dropped by the next stage, and counted.

    Attributes:
        path: one file, a folder or a glob of part files, local or an fsspec URL.
        name: of the source, such as "laion400m".
    """

    path: str
    name: str

    @property
    def config(self) -> dict[str, Any]:
        return {"files": [file.identity(is_whole=True) for file in self._files]}

    def batches(self, limit: int | None = None, *, num_rows: int = 65_536) -> Iterator[pa.Table]:
        """The first ``limit`` rows, ``num_rows`` at a time.

        Raises:
            ValueError: a file is not Parquet or lacks a column.
        """
        if limit is not None:
            num_rows = max(1, min(num_rows, limit))  # else more would be decoded than is asked for
        num_left = limit
        for table in _recut((table for file in self._files for table in _batches(file, num_rows)), num_rows):
            if num_left is not None:
                table = table.slice(0, num_left)
                num_left -= table.num_rows
            if table.num_rows:
                yield table
            if num_left == 0:
                return

    def pairs(self, limit: int | None = None) -> pa.Table:
        """The first ``limit`` rows in one table."""
        return pa.concat_tables([PAIRS.empty_table(), *self.batches(limit)])

    @property
    def _files(self) -> tuple[DataFile, ...]:
        return find_files(self.path, endings=(".parquet",))


def _recut(tables: Iterable[pa.Table], num_rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of ``num_rows``; the last may have fewer."""
    waiting = PAIRS.empty_table()
    for table in tables:
        waiting = pa.concat_tables([waiting, table])
        while waiting.num_rows >= num_rows:
            yield waiting.slice(0, num_rows)
            waiting = waiting.slice(num_rows)
    if waiting.num_rows:
        yield waiting


def _batches(file: DataFile, num_rows: int) -> Iterator[pa.Table]:
    with file.open() as raw:
        try:
            parquet = pq.ParquetFile(raw)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{file.url} cannot be read: {error}") from error
        columns = _columns(parquet.schema_arrow.names, file.url)
        batches = parquet.iter_batches(batch_size=num_rows, columns=columns)
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{file.url} is damaged: {error}") from error
            if batch is None:
                return
            table = pa.Table.from_batches([batch]).select(columns).rename_columns(PAIRS.names)
            yield pa.table([_as_text(column) for column in table.columns], schema=PAIRS)


def _columns(names: list[str], where: str) -> list[str]:
    """The file's names of ``url`` and ``caption``."""
    found: dict[str, list[str]] = {"url": [], "caption": []}
    for name in names:
        wanted = _COLUMN_NAMES.get(name.strip().lower())
        if wanted:
            found[wanted].append(name)
    for wanted, candidates in found.items():
        if len(candidates) != 1:
            which = f"columns {candidates}" if candidates else "no column"
            raise ValueError(f"{where} has {which} for {wanted!r}, wanted one; it has {names}")
    return [found["url"][0], found["caption"][0]]


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text as text; anything else as nulls, which the next stage drops by reason."""
    value_type = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_string(value_type) or pa.types.is_large_string(value_type) or pa.types.is_string_view(value_type):
        return column.cast(pa.string())
    return pa.chunked_array([pa.nulls(len(column), pa.string())])
