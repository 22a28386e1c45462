"""What the data talks about: how often each noun phrase occurs, and each head noun."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.stages.database import connected
from schemas.conform import conform
from schemas.tables import HEAD_COUNTS, PHRASE_COUNTS, PHRASES

# Bumped by hand when what is counted changes.
STATISTICS_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class PhraseStatistics:
    """``phrases`` is PHRASE_COUNTS, ``heads`` is HEAD_COUNTS; both have the most pairs first, then in order of text."""

    phrases: pa.Table
    heads: pa.Table


def phrase_statistics(tables: Iterable[pa.Table], *, num_threads: int | None = None) -> PhraseStatistics:
    """Count the phrases of all shards.

    A phrase counts once a pair, however often its caption says it. A pair counts once for a head that several of its
    phrases have.

    Args:
        tables: PHRASES, one a shard.
        num_threads: of DuckDB; None: one a core. The counts do not depend on it.
    """
    schema = pa.schema([PHRASES.field("caption"), PHRASES.field("phrases")])
    parts = [conform(table, schema, where="phrase counts") for table in tables]
    pairs = pa.concat_tables([schema.empty_table(), *parts])
    pairs = pairs.append_column("row", pa.array(np.arange(len(pairs))))
    with connected(num_threads=num_threads) as database:
        database.register("pairs", pairs)
        database.execute(_MENTIONS)
        phrases, heads = (database.sql(query).to_arrow_table() for query in (_PHRASES, _HEADS))
    return PhraseStatistics(
        phrases=conform(phrases, PHRASE_COUNTS, where="phrase counts"),
        heads=conform(heads, HEAD_COUNTS, where="head counts"),
    )


_MENTIONS = """
CREATE TEMP TABLE mentions AS
SELECT *, string_split(phrase, ' ')[-1] AS head
FROM (SELECT DISTINCT row, hash(caption) AS caption, unnest(phrases) AS phrase FROM pairs)
"""
_PHRASES = """
SELECT phrase, any_value(head) AS head, count(*) AS num_pairs, count(DISTINCT caption) AS num_captions
FROM mentions GROUP BY phrase ORDER BY num_pairs DESC, phrase
"""
_HEADS = """
SELECT head, count(DISTINCT phrase) AS num_phrases, count(DISTINCT row) AS num_pairs
FROM mentions GROUP BY head ORDER BY num_pairs DESC, head
"""
