"""A user's own table of image-text pairs: Parquet, CSV or TSV with the columns ``url`` and ``caption``."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

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
        with self.path.open("rb") as file:
            return {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}

    def pairs(self, limit: int | None = None) -> pa.Table:
        """The first ``limit`` rows.

        Raises:
            ValueError: the file is not a table of pairs.
        """
        table = read_pairs(self.path)
        return table if limit is None else table.slice(0, limit)
