"""Parquet files in parts, with their text columns as text and errors that name the file."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources.captions.columns import Columns
from pipelines.sources.captions.remote_files import DataFile
from schemas.conform import text_or_null


@contextmanager
def open_parquet(file: DataFile) -> Iterator[pq.ParquetFile]:
    """An open file.

    Raises:
        ValueError: it is not Parquet.
    """
    with file.open() as raw:
        try:
            parquet = pq.ParquetFile(raw)
            _ = parquet.schema_arrow  # its names are decoded here
        except Exception as error:  # a broken footer raises whatever it leads to, UnicodeDecodeError among them
            raise ValueError(f"{file.url} cannot be read: {error}") from error
        yield parquet


def parquet_tables(file: DataFile, columns: Columns, *, num_rows: int) -> Iterator[pa.Table]:
    """The wanted columns in tables of at most ``num_rows``: text where it is required, nulls where it is not text.

    Raises:
        ValueError: a column is missing or holds lists or the like, or the file is damaged.
    """
    with open_parquet(file) as parquet:
        names = parquet.schema_arrow.names
        found = {wanted: names[i] for wanted, i in columns.find(names, where=file.url).items()}
        for wanted in columns.required:
            kind = parquet.schema_arrow.field(found[wanted]).type
            if pa.types.is_nested(kind):
                raise ValueError(
                    f"{file.url}: column {found[wanted]!r} is {kind}, wanted text: write one {wanted} a row"
                )
        for table in _tables(parquet, list(found.values()), num_rows, where=file.url):
            texts = {wanted: text_or_null(table[found[wanted]]) for wanted in columns.required}
            others = {wanted: table[name] for wanted, name in found.items() if wanted in columns.optional}
            yield pa.table({**texts, **others})


def _tables(parquet: pq.ParquetFile, columns: list[str], num_rows: int, *, where: str) -> Iterator[pa.Table]:
    batches = parquet.iter_batches(batch_size=num_rows, columns=columns)
    while True:
        try:
            batch = next(batches, None)
        except Exception as error:  # as above
            raise ValueError(f"{where} is damaged: {error}") from error
        if batch is None:
            return
        yield pa.Table.from_batches([batch])
