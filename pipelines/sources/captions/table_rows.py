"""Rows of a user's table: CSV, TSV, JSON, JSON Lines or Parquet, plain or gzipped, with errors that name the row."""

import csv
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pipelines.sources.captions.columns import Columns
from pipelines.sources.captions.parquet_table import parquet_tables
from pipelines.sources.captions.remote_files import DataFile
from pipelines.sources.captions.text_encoding import cut, text_lines, whole_text
from pipelines.sources.input_files import parse_json, whole_number

TABLE_ENDINGS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
_TSV_FIELD = re.compile(r'(?:^|\t)("(?:[^"]|"")*"(?=\t|$)|[^\t]*)')
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_ROWS_AT_ONCE = 10_000

Row = dict[str, Any]


def table_rows(file: DataFile, columns: Columns) -> Iterator[Row]:
    """The wanted columns of every row that is not blank; the format is told by the ending (``.gz`` behind it or not).

    A CSV file follows RFC 4180. A field of a TSV file is quoted where it is as ``csv.writer`` writes it: a quotation mark at
    each end, and every one between them doubled; any other quotation mark is text, since captions of the web hold lone
    ones. A table with ``|`` between its columns (Flickr30k's ``results.csv``) has no quoting; a short row has no caption.
    Where the header says so, ``;``, a tab or ``|`` stands between the columns whatever the ending is.

    Raises:
        ValueError: another ending, a missing column, or a row that cannot be read; the message names file and row.
    """
    name = re.sub(r"\.gz$", "", file.name.lower())
    if name.endswith(".parquet"):
        tables = parquet_tables(file, columns, num_rows=_ROWS_AT_ONCE)
        return (row for table in tables for row in table.to_pylist())
    if name.endswith(".jsonl"):
        rows = _json_line_rows(file, columns)
    elif name.endswith(".json"):
        rows = _json_rows(file, columns)
    elif name.endswith((".csv", ".tsv", ".txt")):
        rows = _text_rows(file, columns, delimiter="," if name.endswith(".csv") else "\t")
    else:
        raise ValueError(f"{file.url} is neither {' nor '.join(TABLE_ENDINGS)}")
    return ({name: cut(value) if isinstance(value, str) else value for name, value in row.items()} for row in rows)


def read_json(file: DataFile) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: it is not JSON, or nested too deep.
    """
    return parse_json(whole_text(file), path=file.url)


def unquoted(field: str) -> str:
    """A field of a TSV file without the quoting of ``csv.writer``, where it has that."""
    inner = field[1:-1]
    if len(field) < 2 or field[0] != '"' or field[-1] != '"' or '"' in inner.replace('""', ""):
        return field
    return inner.replace('""', '"')


def _any_line_end(lines: Iterable[str]) -> Iterator[str]:
    """Lines that end with a line feed cut at lone carriage returns, too, which old programs of the Mac write."""
    for line in lines:
        if "\r" in line.removesuffix("\n").removesuffix("\r"):
            yield from _LINE.findall(line)
        else:
            yield line


def _text_rows(file: DataFile, columns: Columns, *, delimiter: str) -> Iterator[Row]:
    lines = _any_line_end(text_lines(file))
    header = next((line for line in lines if line.strip()), None)
    if header is None:
        raise ValueError(f"{file.url} is empty")
    delimiter, names, found = _read_header(header, columns, delimiter, where=file.url)
    for number, fields in enumerate(_FIELDS[delimiter](lines, delimiter, len(names), file.url), start=2):
        if len(fields) != len(names):
            shown = delimiter.join(fields)[:80]
            raise ValueError(
                f"{file.url}: row {number} has {len(fields)} fields, the header has {len(names)}: {shown!r}; a field with "
                f"{delimiter!r} or a line break in it must be in quotation marks"
            )
        yield {wanted: fields[position] for wanted, position in found.items()}


def _read_header(line: str, columns: Columns, delimiter: str, *, where: str) -> tuple[str, list[str], dict[str, int]]:
    """Delimiter, names, and positions of the wanted columns: by the usual delimiter, else by another that gives them."""
    errors: list[ValueError] = []
    for tried in (delimiter, *(other for other in _FIELDS if other != delimiter)):
        names = next(csv.reader([line.rstrip("\r\n")], delimiter=tried))
        try:
            return tried, names, columns.find(names, where=where)
        except ValueError as error:
            errors.append(error)
    raise errors[0]


def _csv_fields(lines: Iterable[str], delimiter: str, _: int, where: str) -> Iterator[list[str]]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    for number in itertools.count(2):
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{where}: row {number} is no CSV ({error}): is a quotation mark not closed?") from error
        if fields is None:
            return
        if fields:
            yield fields


def _tsv_fields(lines: Iterable[str], delimiter: str, num_columns: int, _: str) -> Iterator[list[str]]:
    for line in lines:
        text = line.rstrip("\r\n")
        fields = text.split(delimiter)
        if len(fields) > num_columns:  # perhaps some are in quotation marks
            fields = [match[1] for match in _TSV_FIELD.finditer(text)]
        if text:
            yield [unquoted(field) for field in fields]


def _pipe_fields(lines: Iterable[str], delimiter: str, num_columns: int, _: str) -> Iterator[list[str]]:
    fields = ([field.strip() for field in line.split(delimiter, num_columns - 1)] for line in lines if line.strip())
    return (row + [""] * (num_columns - len(row)) for row in fields)


_FIELDS: dict[str, Callable[[Iterable[str], str, int, str], Iterator[list[str]]]] = {
    ",": _csv_fields,
    "\t": _tsv_fields,
    ";": _csv_fields,
    "|": _pipe_fields,
}


def _json_line_rows(file: DataFile, columns: Columns) -> Iterator[Row]:
    for number, line in enumerate(text_lines(file), start=1):
        if line.strip():
            where = f"{file.url}: row {number}"
            try:
                value = json.loads(line, parse_int=whole_number)
            except RecursionError:  # a row of no use, as one is whose URL is a list
                yield dict.fromkeys(columns.required)
                continue
            except ValueError as error:
                raise ValueError(f"{where} is not JSON: {error}") from error
            yield _pick(value, columns, where=where)


def _json_rows(file: DataFile, columns: Columns) -> Iterator[Row]:
    content = read_json(file)
    if not isinstance(content, list):
        raise ValueError(
            f"{file.url} holds no list of objects with {' and '.join(columns.required)}; COCO's JSON goes by --captions"
        )
    for number, value in enumerate(content, start=1):
        yield _pick(value, columns, where=f"{file.url}: row {number}")


def _pick(value: Any, columns: Columns, *, where: str) -> Row:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is no JSON object")
    values = list(value.values())
    return {wanted: values[position] for wanted, position in columns.find(list(value), where=where).items()}
