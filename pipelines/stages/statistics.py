"""Phrase statistics: how often each noun phrase occurs, and each head noun.

Counts of some shards and counts of such counts look alike, so that growth counts new pairs alone and adds up the rest.
"""

from collections.abc import Iterable

import pyarrow as pa

from pipelines.stages.database import connected
from schemas.conform import conform
from schemas.tables import HEAD_COUNTS, MENTIONS, PHRASE_COUNTS

# Bumped by hand when what is counted changes.
STATISTICS_VERSION = 2


def count_phrases(tables: Iterable[pa.Table], *, num_threads: int | None = None) -> pa.Table:
    """PHRASE_COUNTS of MENTIONS, those of most pairs first, then in order of text; they do not depend on ``num_threads``."""
    return _counted(_MENTIONS, tables, MENTIONS, PHRASE_COUNTS, num_threads)


def add_counts(counts: Iterable[pa.Table], *, num_threads: int | None = None) -> pa.Table:
    """PHRASE_COUNTS of all pairs from those of distinct shards, in the order of `count_phrases`."""
    return _counted(_SUMS, counts, PHRASE_COUNTS, PHRASE_COUNTS, num_threads)


def count_heads(phrases: pa.Table, *, num_threads: int | None = None) -> pa.Table:
    """HEAD_COUNTS of PHRASE_COUNTS, the most frequent heads first, then in order of text."""
    return _counted(_HEADS, [phrases], PHRASE_COUNTS, HEAD_COUNTS, num_threads)


def _counted(
    query: str, tables: Iterable[pa.Table], given: pa.Schema, schema: pa.Schema, num_threads: int | None
) -> pa.Table:
    parts = [conform(table, given, where="phrase counts") for table in tables]
    with connected(num_threads=num_threads) as database:
        database.register("rows", pa.concat_tables([given.empty_table(), *parts]))
        return conform(database.sql(query).to_arrow_table(), schema, where="phrase counts")


_MENTIONS = """
SELECT phrase, string_split(phrase, ' ')[-1] AS head, count(*) AS num_pairs
FROM (SELECT unnest(phrases) AS phrase FROM rows) GROUP BY phrase ORDER BY num_pairs DESC, phrase
"""
_SUMS = """
SELECT phrase, any_value(head) AS head, sum(num_pairs)::BIGINT AS num_pairs
FROM rows GROUP BY phrase ORDER BY num_pairs DESC, phrase
"""
_HEADS = """
SELECT head, count(*) AS num_phrases, sum(num_pairs)::BIGINT AS num_mentions
FROM rows GROUP BY head ORDER BY num_mentions DESC, head
"""
