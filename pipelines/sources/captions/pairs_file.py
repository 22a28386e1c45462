"""A user's own table of image-text pairs: Parquet, CSV or TSV with the columns ``url`` and ``caption``."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from pipelines.sources.source import BYTES_PER_PAIR, PairBlock
from schemas.tables import PAIRS, SCORES

# In any case; LAION writes URL and TEXT.
COLUMN_NAMES = {"url": "url", "caption": "caption", "text": "caption", **{name: name for name in SCORES}}


@dataclass(frozen=True, kw_only=True)
class PairsFile:
    """A `pipelines.sources.source.PairSource`: rows in the order of the file, so that rows added at its end only add shards.

    Attributes:
        path: the table; its columns are those that `read_pairs` takes.
    """

    path: Path

    @property
    def name(self) -> str:
        """The file's name without its ending, with letters, digits and underscores only."""
        return re.sub(r"\W+", "_", self.path.stem)

    @property
    def config(self) -> dict[str, Any]:
        """Follows the content of the file."""
        with self.path.open("rb") as file:
            return {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}

    def blocks(self, limit: int | None = None, *, num_rows: int) -> list[PairBlock]:
        """One, which reads the file as a whole."""
        block = PairBlock(
            name=self.name,
            first_shard=0,
            config={**self.config, "num_pairs": limit, "pairs_per_shard": num_rows},
            num_rows=limit or self.path.stat().st_size // BYTES_PER_PAIR,
            read=partial(self._read, limit, num_rows),
        )
        return [block]

    def _read(self, limit: int | None, num_rows: int) -> Iterator[pa.Table]:
        """Raises ValueError where the file is not a table of pairs."""
        table = read_pairs(self.path).slice(0, limit)
        for start in range(0, table.num_rows, num_rows):
            yield table.slice(start, num_rows)


def read_pairs(path: Path) -> pa.Table:
    """Read image-text pairs from a ``.parquet``, ``.csv`` or ``.tsv`` file.

    Columns are ``url`` and ``caption`` in any case; ``text`` does for ``caption``; ``similarity`` and ``punsafe`` are read
    where they are there. A CSV file follows RFC 4180; a TSV
    file has a header and no quoting, as captions in TSV files of the web hold lone quotation marks.

    Returns:
        A table with the columns ``url`` and ``caption`` as the file types them, and the scores that it has.

    Raises:
        ValueError: another extension, a missing column, or a file that cannot be read.
    """
    try:
        table = _read(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    columns = find_columns(table.column_names, where=path)
    return table.select(list(columns.values())).rename_columns(list(columns))


def find_columns(names: list[str], *, where: Path | str) -> dict[str, int]:
    """The positions in ``names`` of ``url``, ``caption`` and, where there are any, the scores, in any case.

    Raises:
        ValueError: one is missing, or there are two.
    """
    found: dict[str, int] = {}
    for position, name in enumerate(names):
        wanted = COLUMN_NAMES.get(name.strip().lower())
        if wanted and wanted in found:
            raise ValueError(f"{where} has two columns for {wanted!r}: {names[found[wanted]]!r} and {name!r}; keep one")
        if wanted:
            found[wanted] = position
    missing = [name for name in PAIRS.names if name not in found]
    if missing:
        raise ValueError(f"{where} has no column {' or '.join(missing)}; it has {names}")
    return {name: found[name] for name in (*PAIRS.names, *SCORES) if name in found}


def _read(path: Path) -> pa.Table:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return pa.parquet.read_table(path)
    if suffix not in (".csv", ".tsv"):
        raise ValueError(f"{path} is neither .parquet nor .csv nor .tsv")
    parse = (
        pa.csv.ParseOptions(delimiter=",", newlines_in_values=True)
        if suffix == ".csv"
        else pa.csv.ParseOptions(delimiter="\t", quote_char=False)
    )
    with pa.csv.open_csv(path, parse_options=parse) as reader:
        names = reader.schema.names
    types = {name: pa.float32() if name.strip().lower() in SCORES else pa.string() for name in names}
    convert = pa.csv.ConvertOptions(column_types=types)
    return pa.csv.read_csv(path, parse_options=parse, convert_options=convert)
