"""MetaCLIP's balancing, over noun phrases: fewer pairs of what the web has too much of."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from pipelines.stages.database import connected
from schemas.conform import conform
from schemas.tables import DROP_REASON, MENTIONS, OUT_OF_BOUNDS, PHRASES, with_drop_reason


@dataclass(frozen=True, kw_only=True)
class Balance:
    """PHRASES to PHRASES: caps the frequency of common phrases and leaves out the rare ones.

    A phrase that occurs in ``count`` pairs picks each of them with probability ``max_count / max(count, max_count)``,
    and a pair stays if one of its phrases picks it (Algorithm 1 of MetaCLIP, arXiv:2309.16671, with noun phrases as
    entries). The draw is a hash of key and phrase: the same for the same pair whatever else is there; as counts grow,
    what is kept only shrinks.

    What depends on all shards is in `out_of_bounds`; with it each shard is balanced by itself. Without a bound that
    table is empty, and no shard depends on another.

    Drops ``no_phrase_left`` (every phrase was rare) and ``balanced_out`` (no phrase picked the pair).

    Attributes:
        max_count: pairs a phrase picks, on average, at most; MetaCLIP has 20,000 for 400M pairs. None: all.
        min_count: phrases of fewer pairs are taken off the list of phrases.
        num_threads: of DuckDB where it counts; None: one a core. The counts do not depend on it.
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

    @property
    def is_bounded(self) -> bool:
        """Whether a phrase can be too rare or too common at all."""
        return self.max_count is not None or self.min_count > 1

    def out_of_bounds(self, tables: Iterable[pa.Table]) -> pa.Table:
        """OUT_OF_BOUNDS of the MENTIONS of all shards, in order of the phrases."""
        pairs = pa.concat_tables([MENTIONS.empty_table(), *(table.select(MENTIONS.names) for table in tables)])
        with connected(num_threads=self.num_threads) as database:
            database.register("pairs", pairs)
            found = database.sql(_OUT_OF_BOUNDS, params=self.config).to_arrow_table()
        return conform(found, OUT_OF_BOUNDS, where="phrases out of bounds")

    def __call__(self, table: pa.Table, *, out_of_bounds: pa.Table | None = None) -> pa.Table:
        """PHRASES of a shard with the phrases that are left, given what is ``out_of_bounds`` over all, and ``drop_reason``."""
        pairs = table.append_column("row", pa.array(np.arange(len(table))))
        with connected(num_threads=1) as database:
            database.register("pairs", pairs)
            database.register("bounds", OUT_OF_BOUNDS.empty_table() if out_of_bounds is None else out_of_bounds)
            balanced = database.sql(_BALANCED, params=self.config).to_arrow_table()
        for name in balanced.column_names[:-1]:
            table = table.set_column(table.schema.get_field_index(name), PHRASES.field(name), balanced[name])
        return table.append_column(DROP_REASON, balanced[DROP_REASON.name]).cast(with_drop_reason(PHRASES))


_OUT_OF_BOUNDS = """
SELECT phrase, count(*) AS count FROM (SELECT unnest(phrases) AS phrase FROM pairs)
GROUP BY phrase HAVING count(*) < $min_count OR count(*) > $max_count ORDER BY phrase
"""
_BALANCED = """
WITH mentions AS (
    SELECT row, key, unnest(range(1, len(phrases) + 1)) AS position, unnest(phrases) AS phrase FROM pairs
), drawn AS (
    SELECT
        row,
        list(position ORDER BY position) AS positions,
        bool_or(
            count IS NULL OR $max_count IS NULL OR count <= $max_count
            OR md5_number_lower(key || chr(10) || phrase)::DOUBLE / 18446744073709551616.0 < $max_count / count
        ) AS is_picked
    FROM mentions LEFT JOIN bounds USING (phrase) WHERE count IS NULL OR count >= $min_count GROUP BY row
)
SELECT
    coalesce(list_select(phrases, positions), []) AS phrases,
    coalesce(list_select(phrase_starts, positions), []) AS phrase_starts,
    coalesce(list_select(phrase_ends, positions), []) AS phrase_ends,
    CASE WHEN drawn.row IS NULL THEN 'no_phrase_left' WHEN NOT is_picked THEN 'balanced_out' END AS drop_reason
FROM pairs LEFT JOIN drawn USING (row) ORDER BY pairs.row
"""
