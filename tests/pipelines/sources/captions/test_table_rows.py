"""Tables of any kind, damaged at random: every row comes back, or an error names the file."""

import csv
import io
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sources.captions.columns import FILE_COLUMNS, URL_COLUMNS
from pipelines.sources.captions.remote_files import DataFile, find_files
from pipelines.sources.captions.table_rows import table_rows
from pipelines.sources.captions.text_encoding import text_or_none

# What no format of a table holds within a field without quotation marks.
FIELD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), min_size=1, max_size=20)


def file_of(folder: str, name: str, content: bytes) -> DataFile:
    (Path(folder) / name).write_bytes(content)
    return find_files(f"{folder}/{name}", endings=())[0]


def written(rows: list[tuple[str, str]], name: str) -> bytes:
    """A table as Python's csv, json or pyarrow writes it."""
    if name.endswith(".parquet"):
        buffer = io.BytesIO()
        pq.write_table(pa.table({"url": [url for url, _ in rows], "caption": [text for _, text in rows]}), buffer)
        return buffer.getvalue()
    records = [{"url": url, "caption": caption} for url, caption in rows]
    if name.endswith(".json"):
        return json.dumps(records).encode()
    if name.endswith(".jsonl"):
        return "\n".join(map(json.dumps, records)).encode()
    text = io.StringIO()
    csv.writer(text, delimiter="," if name.endswith(".csv") else "\t").writerows([("url", "caption"), *rows])
    return text.getvalue().encode()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=5))
@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.json", "x.jsonl", "x.parquet"])
def test_what_a_library_writes_comes_back(name: str, rows: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = table_rows(file_of(folder, name, written(rows, name)), URL_COLUMNS)
        assert [(row["url"], row["caption"]) for row in found] == rows


@settings(max_examples=80, deadline=None)
@given(st.data())
@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.json", "x.jsonl", "x.parquet", "x.csv.gz"])
def test_damage_gives_rows_or_an_error_that_names_the_file(name: str, data: st.DataObject) -> None:
    rows = [(f"http://a.test/{i}", f'a "red" apple, été {i}') for i in range(8)]
    content = bytearray(written(rows, name))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position : position + data.draw(st.integers(0, 6))] = data.draw(st.binary(max_size=6))
    with tempfile.TemporaryDirectory() as folder:
        file = file_of(folder, name, bytes(content))
        try:
            found = list(table_rows(file, URL_COLUMNS))
        except ValueError as error:
            assert "/x." in str(error)  # noqa: PT017 - an error is one of two right answers
            return
        assert all(row.keys() >= {"url", "caption"} for row in found)
        if name == "x.tsv":  # whose rows are its lines
            lines = bytes(content).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").split("\n")
            assert len(found) == len([line for line in lines if line.strip("\n")]) - 1


def test_flickr30k_results_have_no_quoting_and_a_short_row(tmp_path: Path) -> None:
    content = 'image_name| comment_number| comment\n1.jpg| 0| Two "young" men , | ok .\n2.jpg| 4   A dog runs .\n'
    found = list(table_rows(file_of(str(tmp_path), "results.csv", content.encode()), FILE_COLUMNS))
    assert found == [{"file": "1.jpg", "caption": 'Two "young" men , | ok .'}, {"file": "2.jpg", "caption": ""}]


def test_parquet_of_bytes_and_lists(tmp_path: Path) -> None:
    def read(columns: dict[str, pa.Array]) -> list[dict[str, str]]:
        pq.write_table(pa.table(columns), tmp_path / "x.parquet")
        return list(table_rows(find_files(str(tmp_path / "x.parquet"), endings=())[0], URL_COLUMNS))

    captions = pa.array([b"a dog", "été".encode(), b"caf\xe9", None], pa.binary())
    rows = read({"url": pa.array([b"u"] * 4, pa.binary(1)), "caption": captions})
    assert [row["caption"] for row in rows] == ["a dog", "été", None, None]
    assert {row["url"] for row in rows} == {"u"}
    with pytest.raises(
        ValueError, match=r"x.parquet: column 'caption' is list<.*>, wanted text: write one caption a row"
    ):
        read({"url": pa.array(["u"]), "caption": pa.array([["a", "b"]])})


@pytest.mark.parametrize("odd", ["1" * 5000, "[" * 100_000, '"\\ud800"'])
def test_a_row_of_no_use_costs_a_row(tmp_path: Path, odd: str) -> None:
    content = f'{{"url": "u", "caption": {odd}}}\n'.replace("[}", "[") + '{"url": "v", "caption": "a dog"}\n'
    rows = list(table_rows(file_of(str(tmp_path), "x.jsonl", content.encode()), URL_COLUMNS))
    assert [text_or_none(row["caption"]) for row in rows] == [None, "a dog"]
