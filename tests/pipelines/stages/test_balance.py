import hashlib

import pyarrow as pa
import pytest

from pipelines.stages.balance import Balance
from schemas.tables import PHRASES, with_drop_reason


def with_phrases(table, lists):
    """PHRASES: the spans of a row are those of its phrases written one after the other, with a space between them."""
    starts = [[sum(len(phrase) + 1 for phrase in phrases[:i]) for i in range(len(phrases))] for phrases in lists]
    ends = [
        [start + len(phrase) for start, phrase in zip(*row, strict=True)] for row in zip(starts, lists, strict=True)
    ]
    for name, column in (("phrases", lists), ("phrase_starts", starts), ("phrase_ends", ends)):
        table = table.append_column(PHRASES.field(name), pa.array(column, PHRASES.field(name).type))
    return table


@pytest.fixture
def balanced(images):
    """(phrases, drop reason) of every row by shard."""

    def run(shards, **options):
        tables = {}
        for name, lists in shards.items():
            tables[name] = with_phrases(images([{"key": f"{name}{i:06}"} for i in range(len(lists))]), lists)
        stage = Balance(**options)
        bounds = stage.out_of_bounds(tables.values()) if stage.is_bounded else None
        results = {name: stage(table, out_of_bounds=bounds) for name, table in tables.items()}
        for name, result in results.items():
            assert result.schema == with_drop_reason(PHRASES)
            assert result.column("key").equals(tables[name].column("key"))
        return {
            name: list(zip(table.column("phrases").to_pylist(), table.column("drop_reason").to_pylist(), strict=True))
            for name, table in results.items()
        }

    return run


def test_the_default_keeps_everything(balanced):
    assert balanced({"a": [["cat", "dog"]], "b": [["cat"]]}) == {"a": [(["cat", "dog"], None)], "b": [(["cat"], None)]}


def test_rare_phrases_leave_the_lists_of_all_shards(balanced):
    shards = {"a": [["fig", "cat", "owl"], ["fig"]], "b": [["cat", "owl"], ["owl"]]}
    assert balanced(shards, min_count=2) == {
        "a": [(["fig", "cat", "owl"], None), (["fig"], None)],
        "b": [(["cat", "owl"], None), (["owl"], None)],
    }
    assert balanced(shards, min_count=3) == {
        "a": [(["owl"], None), ([], "no_phrase_left")],
        "b": [(["owl"], None), (["owl"], None)],
    }


def test_common_phrases_pick_as_many_pairs_as_they_may_and_rare_ones_all(balanced):
    shards = {"a": [["cat"]] * 4000, "b": [["cat", "owl"]] * 20 + [["dog"]] * 20}
    rows = balanced(shards, max_count=402)
    kept = sum(reason is None for _, reason in rows["a"])
    assert kept == pytest.approx(400, abs=60)  # binomial, p = 402 / 4020: three standard deviations
    assert {reason for _, reason in rows["a"]} == {None, "balanced_out"}
    assert rows["b"] == [(["cat", "owl"], None)] * 20 + [(["dog"], None)] * 20


def test_what_is_kept_only_shrinks_as_counts_grow(balanced):
    before = balanced({"a": [["cat"]] * 300}, max_count=50)["a"]
    after = balanced({"a": [["cat"]] * 300, "b": [["cat"]] * 300}, max_count=50)["a"]
    kept_before, kept_after = ({i for i, (_, reason) in enumerate(rows) if reason is None} for rows in (before, after))
    assert kept_after < kept_before


def test_nothing_to_balance(balanced):
    assert Balance(min_count=2).out_of_bounds([]).num_rows == 0
    assert balanced({"a": [], "b": [["cat"]]}) == {"a": [], "b": [(["cat"], None)]}


def test_what_is_out_of_bounds_over_all_shards(images):
    lists = [["fig", "cat"], ["cat", "owl"]], [["cat", "owl"]]
    tables = [with_phrases(images([{}] * len(shard)), shard) for shard in lists]
    for num_threads in (1, 2):
        stage = Balance(max_count=2, min_count=2, num_threads=num_threads)
        rows = stage.out_of_bounds(tables).to_pylist()
        assert rows == [{"phrase": "cat", "count": 3}, {"phrase": "fig", "count": 1}]
    assert (Balance().is_bounded, stage.is_bounded) == (False, True)
    assert Balance().out_of_bounds(tables).num_rows == 0


def test_the_draw_is_a_hash_of_key_and_phrase(balanced):
    rows = balanced({"a": [["cat"]] * 100}, max_count=30)["a"]
    digests = [hashlib.md5(f"a{i:06}\ncat".encode()).digest() for i in range(100)]
    draws = [int.from_bytes(digest[8:], "little") / 2**64 for digest in digests]
    assert [reason for _, reason in rows] == [None if draw < 0.3 else "balanced_out" for draw in draws]


def test_the_spans_of_rare_phrases_go_with_them(images):
    table = with_phrases(images([{"key": "1"}, {"key": "2"}]), [["fig", "cat", "owl"], ["owl", "cat"]])
    stage = Balance(min_count=2)
    row = stage(table, out_of_bounds=stage.out_of_bounds([table])).to_pylist()[0]
    assert (row["phrases"], row["phrase_starts"], row["phrase_ends"]) == (["cat", "owl"], [4, 8], [7, 11])


@pytest.mark.parametrize("count", [29, 30, 31, 60, 300])
def test_the_share_that_a_phrase_picks(balanced, count):
    """t / max(count, t) with t = 30, against the draws by themselves."""
    rows = balanced({"a": [["cat"]] * count}, max_count=30)["a"]
    draws = [int.from_bytes(hashlib.md5(f"a{i:06}\ncat".encode()).digest()[8:], "little") / 2**64 for i in range(count)]
    assert [reason is None for _, reason in rows] == [draw < 30 / max(count, 30) for draw in draws]


def test_the_number_of_threads_changes_nothing(balanced):
    shards = {"a": [["cat", f"n{i % 7}"] for i in range(3000)], "b": [["cat"]] * 500}
    one, two = (balanced(shards, max_count=20, num_threads=n) for n in (1, 2))
    assert one == two
    assert "num_threads" not in Balance(num_threads=2).config


def test_golden(images, golden):
    stage = Balance(max_count=2, min_count=2)
    lists = [["cat"], ["cat", "owl"], *[["cat"]] * 6, ["fig"], ["owl", "plum"]]
    table = with_phrases(images([{}] * 10), lists)
    golden(
        stage,
        stage(table, out_of_bounds=stage.out_of_bounds([table])).select(["key", "phrases", "drop_reason"]).to_pylist(),
    )
