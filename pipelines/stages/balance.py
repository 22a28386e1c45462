"""Fewer of what the web has too much of: MetaCLIP's balancing, over noun phrases."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from pipelines.stages.database import connected, split_by_table
from schemas.tables import PHRASES


@dataclass(frozen=True, kw_only=True)
class Balance:
    """PHRASES to PHRASES over all shards: caps the frequency of common phrases and leaves out the rare ones.

    A phrase that occurs in ``count`` pairs picks each of them with probability ``max_count / max(count, max_count)``,
    and a pair stays if one of its phrases picks it (Algorithm 1 of MetaCLIP, arXiv:2309.16671, with noun phrases as
    entries). The draw is a hash of key and phrase: the same for the same pair whatever else is there; as counts grow,
    what is kept only shrinks.

    Drops ``no_phrase_left`` (every phrase was rare) and ``balanced_out`` (no phrase picked the pair).

    Attributes:
        max_count: pairs a phrase picks, on average, at most; MetaCLIP has 20,000 for 400M pairs. None: all.
        min_count: phrases of fewer pairs are taken off the list of phrases.
        num_threads: of DuckDB; None: one a core. The draw does not depend on it.
    """

    max_count: int | None = None
    min_count: int = 1
    num_threads: int | None = None

    name: ClassVar[str] = "balance"
    version: ClassVar[int] = 2
    input_schema: ClassVar[pa.Schema] = PHRASES
    output_schema: ClassVar[pa.Schema] = PHRASES

    @property
    def config(self) -> dict[str, Any]:
        return {"max_count": self.max_count, "min_count": self.min_count}

    def __call__(self, tables: Mapping[str, pa.Table]) -> Mapping[str, pa.Table]:
        """For every shard its table with the phrases that are left and ``drop_reason``, in the order of its rows."""
        if not tables:
            return {}
        columns = ["key", "phrases", "phrase_starts", "phrase_ends"]
        parts = [table.select(columns) for table in tables.values()]
        pairs = pa.concat_tables(parts)
        pairs = pairs.append_column("row", pa.array(np.arange(len(pairs))))
        with connected(num_threads=self.num_threads) as database:
            database.register("pairs", pairs)
            balanced = database.sql(_BALANCED, params=self.config).to_arrow_table()
        return split_by_table(balanced, tables, PHRASES, num_rows=[len(part) for part in parts])


_BALANCED = """
WITH mentions AS (
    SELECT row, key, unnest(range(1, len(phrases) + 1)) AS position, unnest(phrases) AS phrase FROM pairs
), counts AS (
    SELECT phrase, count(*) AS count FROM mentions GROUP BY phrase HAVING count(*) >= $min_count
), drawn AS (
    SELECT
        row,
        list(position ORDER BY position) AS positions,
        bool_or(
            $max_count IS NULL OR count <= $max_count
            OR md5_number_lower(key || chr(10) || phrase)::DOUBLE / 18446744073709551616.0 < $max_count / count
        ) AS is_picked
    FROM mentions JOIN counts USING (phrase) GROUP BY row
)
SELECT
    coalesce(list_select(phrases, positions), []) AS phrases,
    coalesce(list_select(phrase_starts, positions), []) AS phrase_starts,
    coalesce(list_select(phrase_ends, positions), []) AS phrase_ends,
    CASE WHEN drawn.row IS NULL THEN 'no_phrase_left' WHEN NOT is_picked THEN 'balanced_out' END AS drop_reason
FROM pairs LEFT JOIN drawn USING (row) ORDER BY pairs.row
"""
