"""Parquet files in parts, with their text columns as text and errors that name the file."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.sources.captions.columns import Columns
from pipelines.sources.captions.parquet_pages import rows_at_once
from pipelines.sources.captions.remote_files import DataFile
from pipelines.sources.captions.text_encoding import MAX_TEXT_BYTES
from schemas.conform import text_or_null


@contextmanager
def open_parquet(file: DataFile, *, dictionaries: Sequence[str] = ()) -> Iterator[tuple[pq.ParquetFile, BinaryIO]]:
    """An open file, and its bytes; columns of ``dictionaries`` stay dictionaries, which repeat no value.

    Raises:
        ValueError: it is not Parquet.
    """
    with file.open() as raw:
        try:
            parquet = pq.ParquetFile(raw, read_dictionary=list(dictionaries), pre_buffer=False)
            _ = parquet.schema_arrow  # its names are decoded here
        except Exception as error:  # a broken footer raises whatever it leads to, UnicodeDecodeError among them
            raise ValueError(f"{file.url} cannot be read: {error}") from error
        yield parquet, raw


def parquet_tables(file: DataFile, columns: Columns, *, num_rows: int) -> Iterator[pa.Table]:
    """The wanted columns in tables of at most ``num_rows``: text where it is required, nulls where it is not text.

    Text of more than `MAX_TEXT_BYTES` is cut to a little more, so that the next stage drops it.

    Raises:
        ValueError: a column is missing or holds lists or the like, or the file is damaged.
    """
    with open_parquet(file) as (parquet, _):
        names = parquet.schema_arrow.names
        found = {wanted: names[i] for wanted, i in columns.find(names, where=file.url).items()}
        kinds = {wanted: parquet.schema_arrow.field(found[wanted]).type for wanted in columns.required}
    for wanted, kind in kinds.items():
        if pa.types.is_nested(kind):
            raise ValueError(f"{file.url}: column {found[wanted]!r} is {kind}, wanted text: write one {wanted} a row")
    for table in _tables(file, list(found.values()), num_rows, texts=[found[wanted] for wanted in kinds]):
        texts = {wanted: text_or_null(_cut(table[found[wanted]])) for wanted in columns.required}
        others = {wanted: table[name] for wanted, name in found.items() if wanted in columns.optional}
        yield pa.table({**texts, **others})


def _tables(file: DataFile, columns: list[str], num_rows: int, *, texts: list[str]) -> Iterator[pa.Table]:
    """Batches of rows with dictionaries in the columns of text."""
    with open_parquet(file, dictionaries=texts) as (parquet, raw):
        try:
            size = rows_at_once(raw, parquet, columns, num_rows=num_rows)
            batches = parquet.iter_batches(batch_size=size, columns=columns)
            while (batch := next(batches, None)) is not None:
                yield pa.Table.from_batches([batch])
        except Exception as error:  # as above
            raise ValueError(f"{file.url} is damaged: {error}") from error


def _cut(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text and bytes of more than `MAX_TEXT_BYTES`, cut; in a dictionary each value once, however often it is repeated."""
    return pa.chunked_array([_cut_chunk(chunk) for chunk in column.chunks]) if column.num_chunks else column


def _cut_chunk(chunk: pa.Array) -> pa.Array:
    if isinstance(chunk, pa.DictionaryArray):
        return pa.DictionaryArray.from_arrays(chunk.indices, _cut_chunk(chunk.dictionary))
    if not (
        pa.types.is_string(chunk.type)
        or pa.types.is_binary(chunk.type)
        or pa.types.is_large_string(chunk.type)
        or pa.types.is_large_binary(chunk.type)
    ):
        return chunk
    if (pc.max(pc.binary_length(chunk)).as_py() or 0) <= MAX_TEXT_BYTES:
        return chunk
    # As bytes: a cut within a character makes it no text, which is dropped, too.
    values = chunk.cast(pa.large_binary()) if pa.types.is_large_string(chunk.type) else chunk.cast(pa.binary())
    return pc.binary_slice(values, 0, MAX_TEXT_BYTES + 1).cast(pa.binary())
