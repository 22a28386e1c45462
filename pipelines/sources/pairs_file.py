"""A user's own table of image-text pairs: Parquet, CSV or TSV with the columns ``url`` and ``caption``."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.sources.source import BYTES_PER_PAIR, PairBlock
from pipelines.stages.urls import read_pairs


@dataclass(frozen=True, kw_only=True)
class PairsFile:
    """A `pipelines.sources.source.PairSource`: rows in the order of the file, so that rows added at its end only add shards.

    Attributes:
        path: the table; its columns are those that `pipelines.stages.urls.read_pairs` takes.
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
