"""Parquet of URLs and captions, in one file or in parts."""

from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.sources.laion_parquet import LaionParquet
from pipelines.sources.source import BatchedPairSource


def write(path: Path, columns: dict[str, Any], **options: Any) -> LaionParquet:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return LaionParquet(path=str(path), name="laion")


def test_columns_in_any_case_and_type_of_text(tmp_path: Path) -> None:
    for url, caption in (("URL", "TEXT"), ("url", "caption"), ("Url", "Text")):
        values = {"similarity": [0.3], caption: ["a dog"], url: ["http://a.test/1.jpg"]}
        source = write(tmp_path / "x.parquet", values)
        assert isinstance(source, BatchedPairSource)
        assert source.pairs().to_pylist() == [{"url": "http://a.test/1.jpg", "caption": "a dog"}]
    dictionary = pa.array(["a", "b", "a"]).dictionary_encode()
    source = write(tmp_path / "x.parquet", {"URL": pa.array(["u", "v", None], pa.large_string()), "TEXT": dictionary})
    assert source.pairs().to_pydict() == {"url": ["u", "v", None], "caption": ["a", "b", "a"]}
    assert write(tmp_path / "x.parquet", {"URL": ["u"], "TEXT": [3]}).pairs()["caption"].to_pylist() == [None]


def test_parts_are_read_in_order_and_a_limit_stops_between_them(tmp_path: Path) -> None:
    for part in (2, 0, 1):
        urls = [f"u{part}{row}" for row in range(10)]
        write(tmp_path / "parts" / f"part-{part}.parquet", {"URL": urls, "TEXT": urls}, row_group_size=4)
    (tmp_path / "parts" / "_SUCCESS").touch()
    rows = [f"u{part}{row}" for part in range(3) for row in range(10)]
    for path in (tmp_path / "parts", tmp_path / "parts" / "part-*.parquet"):
        source = LaionParquet(path=str(path), name="laion")
        for limit in (0, 1, 10, 13, 30, 99, None):
            assert source.pairs(limit)["url"].to_pylist() == rows[:limit]
        batches = list(source.batches(25, num_rows=7))
        assert [row for batch in batches for row in batch["url"].to_pylist()] == rows[:25]
        assert [batch.num_rows for batch in batches] == [7, 7, 7, 4]
        assert [file["name"] for file in source.config["files"]] == [f"part-{i}.parquet" for i in range(3)]


def test_a_store_in_memory_is_read_alike(tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", {"URL": ["u"], "TEXT": ["t"]})
    memory = fsspec.filesystem("memory")
    memory.pipe("/laion/x.parquet", (tmp_path / "x.parquet").read_bytes())
    try:
        assert LaionParquet(path="memory://laion", name="laion").pairs().to_pydict() == {"url": ["u"], "caption": ["t"]}
    finally:
        memory.rm("/laion", recursive=True)


def test_only_the_first_row_groups_are_read_for_a_small_limit(tmp_path: Path) -> None:
    """A part whose later bytes are damaged still gives its first rows: nothing beyond them was touched."""
    urls = [f"{row:064d}" for row in range(40_000)]
    source = write(tmp_path / "x.parquet", {"URL": urls, "TEXT": urls}, row_group_size=10_000, compression="none",
                   use_dictionary=False)  # fmt: skip
    content = bytearray((tmp_path / "x.parquet").read_bytes())
    start = len(content) // 2
    content[start : start + 200_000] = b"\xff" * 200_000
    (tmp_path / "x.parquet").write_bytes(content)
    assert source.pairs(1000)["url"].to_pylist() == urls[:1000]
    with pytest.raises(ValueError, match="x.parquet is damaged"):
        source.pairs()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"URL": ["u"]}, r"x.parquet has no column for 'caption', wanted one; it has \['URL'\]"),
        (
            {"URL": ["u"], "TEXT": ["a"], "caption": ["b"]},
            r"has columns \['TEXT', 'caption'\] for 'caption', wanted one",
        ),
    ],
)
def test_errors_name_the_file_and_the_columns(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "x.parquet", columns).pairs()


def test_what_is_not_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="x.parquet cannot be read"):
        LaionParquet(path=str(tmp_path / "x.parquet"), name="laion").pairs()


def test_the_real_alt_texts(shared_data: Path) -> None:
    source = LaionParquet(path=str(shared_data / "laion_alt_text" / "test_10000.parquet"), name="laion")
    assert source.pairs().num_rows == 10_000
    assert [batch.num_rows for batch in source.batches(5000, num_rows=1999)] == [1999, 1999, 1002]
