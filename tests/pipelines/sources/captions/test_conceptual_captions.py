"""The official TSVs of Conceptual Captions."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.sources.captions.conceptual_captions import ConceptualCaptions
from pipelines.stages.urls import Urls

PairsOf = Callable[..., pa.Table]

CC3M = 'a dog\thttp://a.test/1.jpg\r\n"quoted\thttp://a.test/2.jpg\nno tab\n\na\ttab\thttp://a.test/3.jpg'
CC12M = "http://a.test/1.jpg\ta dog\nhttp://a.test/2.jpg\ta\ttab\n"


def source(folder: Path, content: str | bytes, *, name: str = "x.tsv") -> ConceptualCaptions:
    content = content.encode() if isinstance(content, str) else content
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return ConceptualCaptions(path=str(folder / name), name="cc")


@pytest.mark.parametrize("name", ["x.tsv", "x.tsv.gz"])
def test_both_orders_of_columns(tmp_path: Path, name: str, pairs_of: PairsOf) -> None:
    cc3m = source(tmp_path, CC3M, name=name)
    assert pairs_of(cc3m).to_pylist() == [
        {"url": "http://a.test/1.jpg", "caption": "a dog"},
        {"url": "http://a.test/2.jpg", "caption": '"quoted'},
        {"url": "", "caption": "no tab"},
        {"url": "", "caption": ""},
        {"url": "http://a.test/3.jpg", "caption": "a\ttab"},
    ]
    assert pairs_of(source(tmp_path, CC12M, name=name)).to_pylist() == [
        {"url": "http://a.test/1.jpg", "caption": "a dog"},
        {"url": "http://a.test/2.jpg", "caption": "a\ttab"},
    ]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_marks_and_utf16(tmp_path: Path, encoding: str, pairs_of: PairsOf) -> None:
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    rows = pairs_of(source(tmp_path, CC12M)).to_pylist()
    assert pairs_of(source(tmp_path, (mark + CC12M).encode(encoding))).to_pylist() == rows


def test_the_quoting_of_csv_writers_is_undone(tmp_path: Path, pairs_of: PairsOf) -> None:
    rows = ['"""Blue"" boat"\thttp://a.test/1.jpg', 'a "blue" boat\thttp://a.test/2.jpg', '"a\thttp://a.test/3.jpg']
    table = pairs_of(source(tmp_path, "\r\n".join(rows)))
    assert table["caption"].to_pylist() == ['"Blue" boat', 'a "blue" boat', '"a']


def test_a_row_that_is_no_pair_is_counted_by_the_next_stage(tmp_path: Path, pairs_of: PairsOf) -> None:
    table = Urls(source="cc")(pairs_of(source(tmp_path, CC3M)))
    assert table["drop_reason"].to_pylist() == [None, None, "url_invalid", "url_invalid", None]


def test_batches_and_limits_give_the_same_rows(tmp_path: Path, pairs_of: PairsOf) -> None:
    cc = source(tmp_path, CC3M)
    rows = pairs_of(cc).to_pylist()
    for limit in (0, 1, 4, 5, 9, None):
        assert pairs_of(cc, limit).to_pylist() == rows[:limit]
        (block,) = cc.blocks(limit, num_rows=2)
        batches = list(block.read())
        assert [row for batch in batches for row in batch.to_pylist()] == rows[:limit]
        assert all(batch.num_rows == 2 for batch in batches[:-1])


def test_the_config_follows_the_content(tmp_path: Path) -> None:
    assert source(tmp_path, CC3M).config != source(tmp_path, CC12M).config
    assert str(tmp_path) not in str(source(tmp_path, CC3M).config)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("url\tcaption\nhttp://a.test\ta", r"row 1, 'url\\tcaption', is neither caption<TAB>url \(CC3M\) nor url<TAB>"),
        ("http://a.test/1.jpg", "row 1, 'http://a.test/1.jpg', is neither"),
        ("http://a.test/1\thttp://a.test/2", "row 1, .*, is neither"),
        ("a dog", "row 1, 'a dog', is neither"),
        ("", "x.tsv is empty"),
        (b"a dog\thttp://a.test/1.jpg\n\xff\thttp://a.test/2.jpg", "x.tsv: row 2 is not UTF-8"),
    ],
)
def test_errors_name_the_row(tmp_path: Path, content: str | bytes, message: str, pairs_of: PairsOf) -> None:
    with pytest.raises(ValueError, match=message):
        pairs_of(source(tmp_path, content))


def test_a_cut_gzip_and_two_files_are_named(tmp_path: Path, pairs_of: PairsOf) -> None:
    cc = source(tmp_path, CC3M * 1000, name="x.tsv.gz")
    (tmp_path / "x.tsv.gz").write_bytes((tmp_path / "x.tsv.gz").read_bytes()[:-20])
    with pytest.raises(ValueError, match="x.tsv.gz cannot be read to its end"):
        pairs_of(cc)
    source(tmp_path, CC3M)
    with pytest.raises(ValueError, match="stands for 2 files; name one"):
        pairs_of(ConceptualCaptions(path=str(tmp_path), name="cc"))


def test_the_real_validation_split(shared_data: Path, pairs_of: PairsOf) -> None:
    (path,) = (shared_data / "cc3m_val_captions").glob("*.tsv")
    table = pairs_of(ConceptualCaptions(path=str(path), name="cc3m_val"))
    assert table.num_rows == len(path.read_bytes().splitlines()) == 15_833
    assert table.slice(0, 1).to_pylist()[0]["caption"] == "author : a life in photography -- in pictures"
    assert Urls(source="cc3m_val")(table)["drop_reason"].null_count == 15_833
