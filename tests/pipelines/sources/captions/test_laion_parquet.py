"""Parquet of URLs and captions, in one file or in parts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.sources.captions.laion_parquet import LaionParquet

PairsOf = Callable[..., pa.Table]


def write(path: Path, columns: dict[str, Any], **options: Any) -> LaionParquet:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return LaionParquet(path=str(path), name="laion")


def test_columns_in_any_case_and_type_of_text(tmp_path: Path, pairs_of: PairsOf) -> None:
    for url, caption in (("URL", "TEXT"), ("url", "caption"), ("Url", "Text")):
        values = {"WIDTH": [3], caption: ["a dog"], url: ["http://a.test/1.jpg"]}
        source = write(tmp_path / "x.parquet", values)
        assert pairs_of(source).to_pylist() == [{"url": "http://a.test/1.jpg", "caption": "a dog"}]
    dictionary = pa.array(["a", "b", "a"]).dictionary_encode()
    source = write(tmp_path / "x.parquet", {"URL": pa.array(["u", "v", None], pa.large_string()), "TEXT": dictionary})
    assert pairs_of(source).to_pydict() == {"url": ["u", "v", None], "caption": ["a", "b", "a"]}
    assert pairs_of(write(tmp_path / "x.parquet", {"URL": ["u"], "TEXT": [3]}))["caption"].to_pylist() == [None]


def test_scores_come_along_where_a_part_has_them(tmp_path: Path) -> None:
    pairs = {"URL": ["u", "v", "w"], "TEXT": ["a", "b", "c"]}
    write(tmp_path / "parts" / "0.parquet", {**pairs, "SIMILARITY": [0.3, None, 0.2], "punsafe": pa.array([0, 1, 0.5])})
    write(tmp_path / "parts" / "1.parquet", pairs)
    blocks = LaionParquet(path=str(tmp_path / "parts"), name="laion").blocks(num_rows=2)
    tables = [table for block in blocks for table in block.read()]
    assert [table.column_names for table in tables] == [["url", "caption", "similarity", "punsafe"]] * 2 + [
        ["url", "caption"]
    ] * 2
    assert [row for table in tables[:2] for row in table["similarity"].to_pylist()] == [0.3, None, 0.2]
    twice = write(tmp_path / "x.parquet", {**pairs, "similarity": [0.0] * 3, "Similarity": [0.0] * 3})
    with pytest.raises(ValueError, match="has two columns for 'similarity': 'similarity' and 'Similarity'; keep one"):
        list(twice.blocks(num_rows=2)[0].read())


def test_parts_are_read_in_order_and_a_limit_stops_between_them(tmp_path: Path, pairs_of: PairsOf) -> None:
    for part in (2, 0, 1):
        urls = [f"u{part}{row}" for row in range(10)]
        write(tmp_path / "parts" / f"part-{part}.parquet", {"URL": urls, "TEXT": urls}, row_group_size=4)
    (tmp_path / "parts" / "_SUCCESS").touch()
    rows = [f"u{part}{row}" for part in range(3) for row in range(10)]
    for path in (tmp_path / "parts", tmp_path / "parts" / "part-*.parquet"):
        source = LaionParquet(path=str(path), name="laion")
        for limit in (0, 1, 10, 13, 30, 99, None):
            assert pairs_of(source, limit)["url"].to_pylist() == rows[:limit]
        blocks = source.blocks(25, num_rows=7)
        assert [block.name for block in blocks] == ["laion-00000", "laion-00002", "laion-00004"]
        batches = [[batch["url"].to_pylist() for batch in block.read()] for block in blocks]
        assert batches == [[rows[:7], rows[7:10]], [rows[10:17], rows[17:20]], [rows[20:25]]]
        assert [block.config["file"]["name"] for block in blocks] == [f"part-{i}.parquet" for i in range(3)]


def test_a_new_part_leaves_the_blocks_of_the_others_as_they_are(tmp_path: Path) -> None:
    for part in range(2):
        write(tmp_path / "parts" / f"part-{part}.parquet", {"URL": [f"u{part}"] * 5, "TEXT": ["t"] * 5})
    source = LaionParquet(path=str(tmp_path / "parts"), name="laion")
    before = source.blocks(num_rows=3)
    write(tmp_path / "parts" / "part-2.parquet", {"URL": ["u2"], "TEXT": ["t"]})
    after = source.blocks(num_rows=3)

    assert [(b.name, b.config, b.num_rows) for b in after[:2]] == [(b.name, b.config, b.num_rows) for b in before]
    assert [(b.name, b.first_shard, b.num_rows) for b in after[2:]] == [("laion-00004", 4, 1)]


def test_files_without_a_row(tmp_path: Path) -> None:
    columns = {"URL": pa.array([], pa.string()), "TEXT": pa.array([], pa.string())}
    with pytest.raises(ValueError, match=r"x\.parquet holds no row"):
        write(tmp_path / "x.parquet", columns).blocks(num_rows=3)


def test_a_store_in_memory_is_read_alike(tmp_path: Path, pairs_of: PairsOf) -> None:
    write(tmp_path / "x.parquet", {"URL": ["u"], "TEXT": ["t"]})
    memory = fsspec.filesystem("memory")
    memory.pipe("/laion/x.parquet", (tmp_path / "x.parquet").read_bytes())
    try:
        assert pairs_of(LaionParquet(path="memory://laion", name="laion")).to_pydict() == {
            "url": ["u"],
            "caption": ["t"],
        }
    finally:
        memory.rm("/laion", recursive=True)


def test_only_the_first_row_groups_are_read_for_a_small_limit(tmp_path: Path, pairs_of: PairsOf) -> None:
    """A part whose later bytes are damaged still gives its first rows: nothing beyond them was touched."""
    urls = [f"{row:064d}" for row in range(40_000)]
    source = write(tmp_path / "x.parquet", {"URL": urls, "TEXT": urls}, row_group_size=10_000, compression="none",
                   use_dictionary=False)  # fmt: skip
    content = bytearray((tmp_path / "x.parquet").read_bytes())
    start = len(content) // 2
    content[start : start + 200_000] = b"\xff" * 200_000
    (tmp_path / "x.parquet").write_bytes(content)
    assert pairs_of(source, 1000)["url"].to_pylist() == urls[:1000]
    with pytest.raises(ValueError, match="x.parquet is damaged"):
        pairs_of(source)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"URL": ["u"]}, r"x.parquet has no column caption; it has \['URL'\]"),
        (
            {"URL": ["u"], "TEXT": ["a"], "caption": ["b"]},
            "x.parquet has two columns for 'caption': 'TEXT' and 'caption'; keep one",
        ),
    ],
)
def test_errors_name_the_file_and_the_columns(
    tmp_path: Path, columns: dict[str, Any], message: str, pairs_of: PairsOf
) -> None:
    with pytest.raises(ValueError, match=message):
        pairs_of(write(tmp_path / "x.parquet", columns))


def test_what_is_not_parquet_is_named(tmp_path: Path, pairs_of: PairsOf) -> None:
    (tmp_path / "x.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="x.parquet cannot be read"):
        pairs_of(LaionParquet(path=str(tmp_path / "x.parquet"), name="laion"))


def test_the_real_alt_texts(shared_data: Path, pairs_of: PairsOf) -> None:
    source = LaionParquet(path=str(shared_data / "laion_alt_text" / "test_10000.parquet"), name="laion")
    plain = pq.read_table(source.path)
    assert pairs_of(source)["caption"].to_pylist() == plain["TEXT"].to_pylist()
    assert plain.num_rows == 10_000
    (block,) = source.blocks(5000, num_rows=1999)
    assert [batch.num_rows for batch in block.read()] == [1999, 1999, 1002]
