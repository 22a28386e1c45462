"""A user's own table of image-text pairs: CSV, TSV, JSON or JSON Lines with the columns ``url`` and ``caption``."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.sources.captions.columns import URL_COLUMNS
from pipelines.sources.captions.remote_files import DataFile, find_files
from pipelines.sources.captions.table_rows import TABLE_ENDINGS, table_rows
from pipelines.sources.captions.text_encoding import text_or_none
from pipelines.sources.source import BYTES_PER_PAIR, PairBlock, name_of_file
from schemas.paths import absolute
from schemas.tables import SCORES

_NO_SCORE = {"", "nan", "na", "n/a", "none", "null"}


@dataclass(frozen=True, kw_only=True)
class PairsFile:
    """A `pipelines.sources.source.PairSource`: rows in the order of the file, so that rows added at its end only add shards.

    Attributes:
        path: the table, in a form of `pipelines.sources.captions.table_rows.table_rows`, with the columns of
            `pipelines.sources.captions.columns.URL_COLUMNS`; `SCORES` are read where they are there.
    """

    path: Path

    @property
    def name(self) -> str:
        """The file's name without its ending, with letters, digits and underscores only."""
        return name_of_file(self.path.stem)

    @property
    def config(self) -> dict[str, Any]:
        """Follows the content of the file."""
        return {"sha256": self._file.identity(is_whole=True)["sha256"]}

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
        rows = itertools.islice(table_rows(self._file, URL_COLUMNS), limit)
        is_empty = True
        while chunk := list(itertools.islice(rows, num_rows)):
            is_empty = False
            columns: dict[str, pa.Array] = {
                name: pa.array([text_or_none(row.get(name)) for row in chunk], pa.string())
                for name in URL_COLUMNS.required
            }
            for name in SCORES:  # in every table, since JSON may have them in some rows alone
                where = f"{self.path}: column {name}"
                columns[name] = pa.array([_score(row.get(name), where=where) for row in chunk], pa.float32())
            yield pa.table(columns)
        if is_empty and limit != 0:
            raise ValueError(f"{self.path} holds no row")

    @property
    def _file(self) -> DataFile:
        return find_files(str(absolute(self.path)), endings=TABLE_ENDINGS)[0]


def _score(value: Any, *, where: str) -> float | None:
    """Raises ValueError where a score is neither a number nor one of the usual words for none."""
    if value is None or (isinstance(value, str) and value.strip().lower() in _NO_SCORE):
        return None
    try:
        return float(value)
    except OverflowError:
        return None
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{where} has the value {value!r:.80}, wanted numbers: rename the column, or leave it out"
        ) from error
