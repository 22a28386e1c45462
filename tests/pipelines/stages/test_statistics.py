import pyarrow as pa

from pipelines.stages.statistics import phrase_statistics
from schemas.tables import HEAD_COUNTS, PHRASE_COUNTS


def table_of(rows):
    captions, phrases = zip(*rows, strict=True)
    return pa.table({"caption": captions, "phrases": pa.array(phrases, pa.list_(pa.string()))})


def test_pairs_captions_and_heads_over_shards():
    first = table_of([("A", ["red apple", "green apple"]), ("B", ["red apple"])])
    second = table_of([("B", ["red apple"]), ("C", ["owl", "close - up"]), ("D", [])])
    for num_threads in (1, 2):
        counts = phrase_statistics([first, second], num_threads=num_threads)
        assert counts.phrases.schema == PHRASE_COUNTS
        assert counts.heads.schema == HEAD_COUNTS
        assert [tuple(row.values()) for row in counts.phrases.to_pylist()] == [
            ("red apple", "apple", 3, 2),
            ("close - up", "up", 1, 1),
            ("green apple", "apple", 1, 1),
            ("owl", "owl", 1, 1),
        ]
        assert [tuple(row.values()) for row in counts.heads.to_pylist()] == [
            ("apple", 2, 3),
            ("owl", 1, 1),
            ("up", 1, 1),
        ]


def test_nothing_to_count():
    counts = phrase_statistics([])
    assert (counts.phrases.num_rows, counts.heads.num_rows) == (0, 0)
