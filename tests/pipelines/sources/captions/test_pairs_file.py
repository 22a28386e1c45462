"""A user's table of pairs: encodings, quoting, delimiters, and what cannot be read."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.sources.captions.pairs_file import PairsFile
from pipelines.stages.urls import Urls

PairsOf = Callable[..., pa.Table]

PAIRS = [("http://a.test/1", "a dog"), ("http://a.test/2", "été, «red»"), ("http://a.test/3", 'he said "stop"')]


@pytest.fixture
def rows(tmp_path: Path, pairs_of: PairsOf) -> Callable[..., list[tuple[str, str]]]:
    """URL and caption of a file with this content."""

    def read(content: str | bytes, *, name: str = "own.csv", limit: int | None = None) -> list[tuple[str, str]]:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return [(row["url"], row["caption"]) for row in pairs_of(PairsFile(path=tmp_path / name), limit).to_pylist()]

    return read


def table(delimiter: str, **options: object) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, **options).writerows([("url", "caption"), *PAIRS])  # type: ignore[arg-type]
    return text.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize(("ending", "delimiter"), [(".csv", ","), (".tsv", "\t"), (".csv", ";"), (".csv", "\t")])
def test_encodings_and_delimiters(rows: Callable, encoding: str, ending: str, delimiter: str) -> None:
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        content = table(delimiter, quoting=quoting).encode(encoding)
        assert rows(content, name=f"own{ending}") == PAIRS
        assert rows(gzip.compress(content), name=f"own{ending}.gz") == PAIRS


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_line_ends_and_blank_lines(rows: Callable, line_end: str) -> None:
    for name, delimiter in (("own.csv", ","), ("own.tsv", "\t")):
        lines = ["", f"url{delimiter}caption", f"u{delimiter}a", "", f"v{delimiter}b"]
        assert rows(line_end.join(lines), name=name) == [("u", "a"), ("v", "b")]


def test_quotation_marks_and_line_breaks_in_csv(rows: Callable) -> None:
    content = 'Caption,id,URL\n"a ""red"", round\napple",7,http://a.test/1\n3,8,http://a.test/2\n'
    assert rows(content) == [("http://a.test/1", 'a "red", round\napple'), ("http://a.test/2", "3")]


def test_lone_quotation_marks_in_tsv_are_text(rows: Callable) -> None:
    captions = ['"best apple', "5'2\" tall", 'the "red" one', '"a" and "b"', '"', '""', '"quoted"', '"""Blue"" boat"']
    content = "TEXT\turl\n" + "".join(f"{caption}\thttp://a.test/\n" for caption in captions)
    wanted = [*captions[:5], "", "quoted", '"Blue" boat']
    assert [caption for _, caption in rows(content, name="own.TSV")] == wanted


def test_json_and_json_lines(rows: Callable) -> None:
    objects = [{"URL": url, "id": 1, "TEXT": caption} for url, caption in PAIRS]
    assert rows(json.dumps(objects), name="own.json") == PAIRS
    lines = "\n".join(map(json.dumps, objects))
    assert rows(f"\ufeff{lines}\n\n", name="own.jsonl") == PAIRS
    odd = (
        '{"url": "u", "caption": "\\ud800"}\n{"url": 3, "caption": 10'
        + "0" * 400
        + '}\n{"url": null, "caption": ["a"]}'
    )
    assert rows(odd, name="own.jsonl") == [("u", None), (None, None), (None, None)]


def test_scores_that_some_rows_have(tmp_path: Path) -> None:
    lines = ['{"url": "u", "text": "a"}', '{"url": "v", "text": "b", "similarity": 0.5}']
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    (block,) = PairsFile(path=tmp_path / "own.jsonl").blocks(num_rows=1)
    assert pa.concat_tables(block.read())["similarity"].to_pylist() == [None, 0.5]


def test_columns_by_rank(rows: Callable) -> None:
    assert rows("image_url,Title,caption\nu,t,c\n") == [("u", "c")]
    assert rows("Image URL,title\nu,t\n") == [("u", "t")]
    with pytest.raises(ValueError, match="has two columns for 'caption': 'title' and 'alt'; keep one"):
        rows("url,title,alt\nu,t,a\n")


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl"])
def test_scores_in_any_case(tmp_path: Path, pairs_of: PairsOf, ending: str) -> None:
    columns = {"PUNSAFE": [0.5, None], "url": ["u", "v"], "Similarity": ["0.25", "1e999"], "TEXT": ["a", "b"]}
    records = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    separator = "," if ending == ".csv" else "\t"
    lines = [separator.join(columns)]
    lines += [separator.join("" if value is None else str(value) for value in record.values()) for record in records]
    text = "\n".join(map(json.dumps, records) if ending == ".jsonl" else lines)
    (tmp_path / f"own{ending}").write_text(text)
    found = pairs_of(PairsFile(path=tmp_path / f"own{ending}"))
    assert found.to_pydict() == {
        "url": ["u", "v"],
        "caption": ["a", "b"],
        "similarity": [0.25, float("inf")],
        "punsafe": [0.5, None],
    }
    (tmp_path / "bad.csv").write_text("url,caption,punsafe\nu,a,UNLIKELY\n")
    with pytest.raises(ValueError, match=r"bad.csv: column punsafe has the value 'UNLIKELY', wanted numbers: rename"):
        pairs_of(PairsFile(path=tmp_path / "bad.csv"))


def test_limits_and_parts_give_the_same_rows(tmp_path: Path, pairs_of: PairsOf) -> None:
    (tmp_path / "own[1].csv").write_text("url,caption\n" + "".join(f"u{i},c{i}\n" for i in range(7)))
    source = PairsFile(path=tmp_path / "own[1].csv")
    for limit in (0, 1, 6, 7, 9, None):
        assert pairs_of(source, limit)["url"].to_pylist() == [f"u{i}" for i in range(7)][:limit]
        (block,) = source.blocks(limit, num_rows=3)
        assert all(part.num_rows == 3 for part in list(block.read())[:-1])


def test_what_is_no_text_is_dropped_by_the_next_stage(tmp_path: Path, pairs_of: PairsOf) -> None:
    (tmp_path / "own.csv").write_text("url,caption\nhttp://a.test/1,3\n")
    pairs = pairs_of(PairsFile(path=tmp_path / "own.csv"))
    assert Urls(source="test")(pairs)["drop_reason"].to_pylist() == ["caption_not_text"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xml", b"<x/>", r"a\.xml is neither \.csv nor \.tsv nor \.jsonl nor \.json nor \.parquet"),
        ("a.csv", b"url,label\nx,y\n", r"a\.csv has no column caption; it has \['url', 'label'\]; rename one \(read are"),
        ("a.csv", b"a,b\nx,y\n", r"a\.csv has no column url or caption; it has \['a', 'b'\]"),
        ("a.csv", b"url,caption,TEXT\nx,y,z\n", r"a\.csv has two columns for 'caption': 'caption' and 'TEXT'; keep one"),
        ("a.csv", b"", r"a\.csv is empty"),
        ("a.csv", b"url,caption\n", r"a\.csv holds no row"),
        ("a.csv", b"url,caption\nx,y\nx\n", r"a\.csv: row 3 has 1 fields, the header has 2: 'x'"),
        ("a.csv", b"url,caption\nx,a dog, a cat\n", r"a\.csv: row 2 has 3 fields, the header has 2"),
        ("a.csv", b'url,caption\n"x,y\n', r"a\.csv: row 2 is no CSV \(.*\): is a quotation mark not closed\?"),
        ("a.csv", b'url,caption\n"best" apple,y\n', r"a\.csv: row 2 is no CSV"),
        ("a.csv", b"url,caption\nx," + b"y" * 200_000, r"a\.csv: row 2 is no CSV \(field larger than field limit"),
        ("a.tsv", b"url\tcaption\nx\ty\nx\n", r"a\.tsv: row 3 has 1 fields, the header has 2: 'x'"),
        ("a.csv", "url,caption\nx,y\nx,café à la crème\n".encode("latin-1"), r"a\.csv: row 3 is not UTF-8.*: save it as UTF-8"),
        ("a.tsv", "url\tcaption\nx\ty\n".encode("utf-16-le"), r"a\.tsv: row 1 has a NUL character \(UTF-16 without a mark\?\)"),
        ("a.csv", "url,caption\nx,y\n".encode("utf-16")[:-1], r"a\.csv: row \d or one soon after it is not UTF-16, as its"),
        ("a.csv.gz", gzip.compress(b"url,caption\nx,y\n" * 99)[:-9], r"a\.csv\.gz cannot be read to its end"),
        ("a.json", b'{"url": "u"}', r"a\.json holds no list of objects"),
        ("a.json", b"[1]", r"a\.json: row 1 is no JSON object"),
        ("a.json", b"[" * 100_000, r"a\.json is not JSON"),
        ("a.jsonl", b'{"url": "u", "text": "t"}\n{"url": "u"}', r"a\.jsonl: row 2 has no column caption; it has \['url'\]"),
        ("a.jsonl", b"{", r"a\.jsonl: row 1 is not JSON"),
        ("a.csv", None, r"a\.csv cannot be listed: FileNotFoundError"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read(
    tmp_path: Path, name: str, content: bytes | None, message: str, pairs_of: PairsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = PairsFile(path=tmp_path / name)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        pairs_of(source)
