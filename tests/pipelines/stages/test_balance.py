import hashlib

import pyarrow as pa
import pytest

from pipelines.stages.balance import Balance
from schemas.tables import PHRASES, with_drop_reason


@pytest.fixture
def balanced(images):
    """(phrases, drop reason) of every row by shard."""

    def run(shards, **options):
        tables = {}
        for name, lists in shards.items():
            table = images([{"key": f"{name}{i:06}"} for i in range(len(lists))])
            tables[name] = table.append_column(PHRASES.field("phrases"), pa.array(lists, pa.list_(pa.string())))
        results = Balance(**options)(tables)
        assert list(results) == list(tables)
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
    assert balanced({}) == {}
    assert balanced({"a": [], "b": [["cat"]]}) == {"a": [], "b": [(["cat"], None)]}


def test_the_draw_is_a_hash_of_key_and_phrase(balanced):
    rows = balanced({"a": [["cat"]] * 100}, max_count=30)["a"]
    digests = [hashlib.md5(f"a{i:06}\ncat".encode()).digest() for i in range(100)]
    draws = [int.from_bytes(digest[8:], "little") / 2**64 for digest in digests]
    assert [reason for _, reason in rows] == [None if draw < 0.3 else "balanced_out" for draw in draws]


def test_golden(images, golden):
    stage = Balance(max_count=2, min_count=2)
    lists = [["cat"], ["cat", "owl"], *[["cat"]] * 6, ["fig"], ["owl", "plum"]]
    table = images([{}] * 10).append_column(PHRASES.field("phrases"), [lists])
    golden(stage, stage({"a": table})["a"].select(["key", "phrases", "drop_reason"]).to_pylist())
