import pyarrow as pa
import pytest

from pipelines.stages.statistics import add_counts, count_heads, count_phrases
from schemas.tables import HEAD_COUNTS, PHRASE_COUNTS

FIRST = [["red apple", "green apple"], ["red apple"]]
SECOND = [["red apple"], ["owl", "close - up"], []]


def table_of(phrases):
    return pa.table({"phrases": pa.array(phrases, pa.list_(pa.string()))})


def rows_of(table):
    return [tuple(row.values()) for row in table.to_pylist()]


@pytest.mark.parametrize("num_threads", [1, 2])
def test_phrases_and_heads_over_shards(num_threads):
    counts = count_phrases([table_of(FIRST), table_of(SECOND)], num_threads=num_threads)
    heads = count_heads(counts, num_threads=num_threads)
    assert (counts.schema, heads.schema) == (PHRASE_COUNTS, HEAD_COUNTS)
    assert rows_of(counts) == [
        ("red apple", "apple", 3),
        ("close - up", "up", 1),
        ("green apple", "apple", 1),
        ("owl", "owl", 1),
    ]
    assert rows_of(heads) == [("apple", 2, 4), ("owl", 1, 1), ("up", 1, 1)]


def test_counts_of_some_shards_add_up_to_those_of_all():
    parts = [count_phrases([table_of(shard)]) for shard in (FIRST, SECOND)]
    for order in (parts, parts[::-1]):
        assert add_counts(order).equals(count_phrases([table_of(FIRST + SECOND)]))


def test_nothing_to_count():
    counts = count_phrases([])
    assert counts.equals(add_counts([])) and counts.schema == PHRASE_COUNTS
    assert (counts.num_rows, count_heads(counts).num_rows) == (0, 0)
