"""Captions of one image stay in one shard of URLs."""

import itertools
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.build.pair_jobs import _images_uncut, urls_job
from pipelines.sources.captions.pairs_file import PairsFile
from pipelines.storage import KEPT


def shards_of(path: Path, *, num_rows: int, folder: Path) -> list[list[str]]:
    """The last part of the URLs that a build lists, by shard."""
    source = PairsFile(path=path)
    folder.mkdir()
    urls_job("urls", source, source.blocks(num_rows=num_rows)[0]).work(folder)
    return [
        [url.rpartition("/")[2] for url in pq.read_table(shard / KEPT)["url"].to_pylist()]
        for shard in sorted(folder.iterdir())
    ]


@pytest.mark.parametrize(
    ("images", "shards"),
    [
        ("aaabbbccc", ["aaa", "bbb", "ccc"]),
        ("abcabcabc", ["abca", "bcab", "c"]),
        ("aabbbccccd", ["aa", "bbb", "ccccd"]),
        ("aabbccddee", ["aabb", "ccdd", "ee"]),
        ("aaaaaaaaaaaa", ["aaaa", "aaaa", "aaaa"]),
        ("aaabbbbbbbbbc", ["aaa", "bbbbb", "bbbb", "c"]),
    ],
)
def test_captions_of_an_image_share_a_shard(tmp_path: Path, images: str, shards: list[str]) -> None:
    rows = "".join(f"http://a.test/{image},caption {i}\n" for i, image in enumerate(images))
    (tmp_path / "pairs.csv").write_text(f"url,caption\n{rows}")

    found = shards_of(tmp_path / "pairs.csv", num_rows=4, folder=tmp_path / "urls")
    assert ["".join(shard) for shard in found] == shards


@given(st.lists(st.lists(st.sampled_from(["a", "b", None]), min_size=1, max_size=5), max_size=6))
def test_no_row_is_lost_moved_past_another_or_left_behind(parts: list[list[str | None]]) -> None:
    tables = [pa.table({"url": pa.array(part, pa.string())}) for part in parts]
    found = [table["url"].to_pylist() for table in _images_uncut(iter(tables))]

    assert [*itertools.chain(*found)] == [*itertools.chain(*parts)]
    assert len(found) == len(parts) and all(found)
    for shard, following in itertools.pairwise(found):
        assert shard[-1] != following[0] or shard[-1] is None or len({*shard}) == 1
