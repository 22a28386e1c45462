"""Fewer of what the web has too much of: MetaCLIP's balancing, over noun phrases."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from schemas.tables import PHRASES, with_drop_reason


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
    """

    max_count: int | None = None
    min_count: int = 1

    name: ClassVar[str] = "balance"
    version: ClassVar[int] = 1
    input_schema: ClassVar[pa.Schema] = PHRASES
    output_schema: ClassVar[pa.Schema] = PHRASES

    @property
    def config(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def __call__(self, tables: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
        """For every shard its table with the phrases that are left and ``drop_reason``, in the order of its rows."""
        if not tables:
            return {}
        pairs = pa.concat_tables([table.select(["key", "phrases"]) for table in tables.values()])
        import duckdb  # only where it computes: each process that imports it prints its leaks at exit

        with duckdb.connect(config={"threads": 1}) as database:
            database.register("pairs", pairs)
            balanced = database.sql(_BALANCED, params=self.config).to_arrow_table()
        results, start = {}, 0
        for name, table in tables.items():
            part = balanced.slice(start, len(table))
            position = table.schema.get_field_index("phrases")
            table = table.set_column(position, "phrases", part.column("phrases"))
            results[name] = table.append_column("drop_reason", part.column("drop_reason")).cast(
                with_drop_reason(PHRASES)
            )
            start += len(table)
        return results


_BALANCED = """
WITH numbered AS (
    SELECT row_number() OVER () AS row, key, phrases FROM pairs
), mentions AS (
    SELECT row, key, position, phrases[position] AS phrase
    FROM numbered, range(1, len(phrases) + 1) AS positions(position)
), counted AS (
    SELECT *, count(*) OVER (PARTITION BY phrase) AS count FROM mentions
), drawn AS (
    SELECT
        row,
        list(phrase ORDER BY position) AS phrases,
        bool_or(
            $max_count IS NULL OR count <= $max_count
            OR md5_number_lower(key || chr(10) || phrase)::DOUBLE / 18446744073709551616.0 < $max_count / count
        ) AS is_picked
    FROM counted WHERE count >= $min_count GROUP BY row
)
SELECT
    coalesce(drawn.phrases, []) AS phrases,
    CASE WHEN drawn.row IS NULL THEN 'no_phrase_left' WHEN NOT is_picked THEN 'balanced_out' END AS drop_reason
FROM numbered LEFT JOIN drawn USING (row) ORDER BY row
"""
