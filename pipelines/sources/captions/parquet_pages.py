"""Parquet page headers, read without decoding a page: what a file announces that its pages unpack to.

A dictionary of one long text and a run of a thousand references to it take some hundred bytes, and a page of zeros packs to a
thousandth. Arrow allocates whatever a page header says, so the headers are looked at before Arrow is let at them.
The layout is that of the format's parquet.thrift, in Thrift's compact protocol.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow.parquet as pq

MAX_PAGE_BYTES = 64 * 2**20  # unpacked; writers aim at 1 MiB
MAX_BATCH_BYTES = 64 * 2**20
_HEADER_BYTES = 2**16  # of a page: with statistics, which hold the least and the greatest value
_MAX_DEPTH = 16
_STRUCT, _LIST, _SET, _MAP, _BINARY, _DOUBLE, _BYTE = 12, 9, 10, 11, 8, 7, 3
_BOOLEANS = (1, 2)


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page of a column: bytes unpacked and as they lie there, and how many values it has (a dictionary: 0)."""

    num_bytes: int
    stored_bytes: int
    num_values: int


def rows_at_once(file: BinaryIO, parquet: pq.ParquetFile, columns: list[str], *, num_rows: int) -> int:
    """How many rows of some columns to decode at a time: ``num_rows``, or fewer where those would be too many bytes.

    Raises:
        ValueError: a page is larger than any writer makes them, or its header cannot be read.
    """
    most = 1.0  # bytes a row
    wanted = {parquet.schema_arrow.names.index(name) for name in columns}
    for group in range(parquet.metadata.num_row_groups):
        row_group = parquet.metadata.row_group(group)
        for i in range(row_group.num_columns):
            column = row_group.column(i)
            if column.path_in_schema.partition(".")[0] in columns or i in wanted:
                most = max(
                    [most, *(page.num_bytes / page.num_values for page in _pages(file, column) if page.num_values)]
                )
    return max(1, min(num_rows, int(MAX_BATCH_BYTES / most)))


def _pages(file: BinaryIO, column: pq.ColumnChunkMetaData) -> Iterator[Page]:
    starts = [column.data_page_offset]
    if column.has_dictionary_page and column.dictionary_page_offset:
        starts.append(column.dictionary_page_offset)
    place, num_left = min(starts), column.num_values
    end = place + column.total_compressed_size
    while num_left > 0 and place < end:
        file.seek(place)
        header = _Thrift(file.read(_HEADER_BYTES))
        page = header.page()
        if not (0 <= page.num_bytes <= MAX_PAGE_BYTES and page.stored_bytes >= 0 and page.num_values >= 0):
            raise ValueError(
                f"a page of column {column.path_in_schema!r} unpacks to {page.num_bytes:,} bytes, more than {MAX_PAGE_BYTES:,}"
            )
        yield page
        place += header.place + page.stored_bytes
        num_left -= page.num_values


class _Thrift:
    """A struct in the compact protocol."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.place = 0

    def page(self) -> Page:
        """A ``PageHeader``: type, sizes, and of its kind the number of values."""
        sizes: dict[int, int] = {}
        num_values = 0
        for field, kind in self._fields():
            if field in (1, 2, 3) and kind in (4, 5, 6):
                sizes[field] = self._integer()
            elif field in (5, 8) and kind == _STRUCT:  # data pages of version 1 and 2
                for inner, inner_kind in self._fields():
                    if inner == 1:
                        num_values = self._integer()
                    else:
                        self._skip(inner_kind)
            else:
                self._skip(kind)
        if not {2, 3} <= sizes.keys():
            raise ValueError("it has a page without a size")
        return Page(num_bytes=sizes[2], stored_bytes=sizes[3], num_values=num_values)

    def _fields(self) -> Iterator[tuple[int, int]]:
        number = 0
        while (byte := self._byte()) != 0:
            number = number + (byte >> 4) if byte >> 4 else self._integer()
            yield number, byte & 15

    def _byte(self) -> int:
        if self.place >= len(self._content):
            raise ValueError("the header of a page is cut off")
        self.place += 1
        return self._content[self.place - 1]

    def _number(self) -> int:
        number = shift = 0
        while True:
            byte = self._byte()
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number
            if shift > 63:
                raise ValueError("the header of a page is damaged")

    def _integer(self) -> int:
        number = self._number()
        return (number >> 1) ^ -(number & 1)

    def _skip(self, kind: int, depth: int = 0) -> None:
        if depth > _MAX_DEPTH:
            raise ValueError("the header of a page is damaged")
        if kind == _STRUCT:
            for _, inner in self._fields():
                self._skip(inner, depth + 1)
        elif kind in (_LIST, _SET):
            byte = self._byte()
            for _ in range(byte >> 4 if byte >> 4 < 15 else self._number()):
                self._skip(byte & 15 if byte & 15 not in _BOOLEANS else _BYTE, depth + 1)
        elif kind == _BINARY:
            length = self._number()
            self.place += length
        elif kind == _DOUBLE:
            self.place += 8
        elif kind == _BYTE:
            self.place += 1
        elif kind in (4, 5, 6):
            self._number()
        elif kind not in _BOOLEANS:
            raise ValueError("the header of a page is damaged")
