from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from detclipv2.vocabulary import (
    Vocabulary,
    checked_names,
    distinct_names,
    load_vocabulary,
    read_names,
    save_vocabulary,
)


def test_saved_and_loaded(tmp_path: Path) -> None:
    embeddings = torch.arange(12.0).reshape(4, 3).T  # not contiguous
    names = ["dog", "red apple", 'naïve "café"']
    save_vocabulary(Vocabulary(names=names, embeddings=embeddings), tmp_path / "v.safetensors")

    found = load_vocabulary(tmp_path / "v.safetensors")

    assert found.names == names
    assert torch.equal(found.embeddings, embeddings)


@pytest.mark.parametrize(("metadata", "num_names"), [(None, 0), ({"names": '["dog"]'}, 1)])
def test_names_that_do_not_fit(tmp_path: Path, metadata: dict[str, str] | None, num_names: int) -> None:
    save_file({"embeddings": torch.zeros(2, 3)}, tmp_path / "v.safetensors", metadata=metadata)

    with pytest.raises(ValueError, match=f"v.safetensors: {num_names} names for 2 embeddings; save the model again"):
        load_vocabulary(tmp_path / "v.safetensors")


FILES: list[tuple[str, str | bytes, list[str]]] = [
    ("bom.txt", "\ufeffred apple\r\nguitar \r\n\r\nkite\r\n", ["red apple", "guitar", "kite"]),
    ("old_mac.names", "dog\rcat\r", ["dog", "cat"]),
    ("utf16.txt", "dög\r\ncat\r\n".encode("utf-16"), ["dög", "cat"]),
    ("no_ending", "dog\n\n  red apple \r\ncafé\ntraffic_light\n", ["dog", "red apple", "café", "traffic light"]),
    ("excel.csv", "\ufeffid;name\r\n1;red apple\r\n2;cat\r\n", ["red apple", "cat"]),
    ("quoted.csv", 'Name,id\n"fish, dried",1\n\ncat,2\n', ["fish, dried", "cat"]),
    ("class.tsv", "class\tcount\ndog\t3\n", ["dog"]),
    ("one_column.csv", "dog\nred apple\n", ["dog", "red apple"]),
    ("one_column_and_header.csv", "category\ndog\n", ["dog"]),
    (
        "coco.json",
        '{"categories": [{"id": 7, "name": "air_conditioner"}, {"id": 9, "name": 7}]}',
        ["air conditioner", "7"],
    ),
    ("list.JSON", '\ufeff["dog", "cat"]', ["dog", "cat"]),
    ("names.json", '{"names": {"0": "dog", "1": "cat"}}', ["dog", "cat"]),
    ("ids.json", '{"0": "dog", "1": "cat"}', ["dog", "cat"]),
    ("imagenet.json", '{"n01440764": "tench"}', ["tench"]),
    ("by_name.json", '{"dog": 1, "cat": 2}', ["dog", "cat"]),
    ("data.yaml", "path: ../x\ntrain: images\nnames:\n  0: red apple\n  1: no\n  2: 7\n", ["red apple", "no", "7"]),
    ("old.yml", "nc: 2\nnames: ['dog', 'cat']\n", ["dog", "cat"]),
    ("list.yaml", "- dog\n- cat\n", ["dog", "cat"]),
]


@pytest.mark.parametrize(("name", "content", "names"), FILES, ids=[name for name, *_ in FILES])
def test_names_from_a_file(tmp_path: Path, name: str, content: str | bytes, names: list[str]) -> None:
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)

    assert read_names(tmp_path / name) == names


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "none.txt cannot be read as a category list: No such file"),
        ("blank.txt", b" \n", "blank.txt holds no category; wanted one name a line"),
        ("empty.csv", b"", "empty.csv holds no category"),
        ("empty.yaml", b"", "empty.yaml holds no category"),
        ("binary.txt", b"dog\x00", "it is no text but a binary file; wanted one name a line"),
        ("image.txt", b"\xff\xd8\xff\xe0\x10JFIF", "row 1 is not UTF-8: save the file as UTF-8 text"),
        ("latin.txt", "dog\ncaf\xe9\n".encode("latin-1"), "row 2 is not UTF-8"),
        ("escape.txt", b"dog\x1b[0m", "it has the character"),
        ("page.txt", b"\n<html>", "it is XML or HTML"),
        ("voc.xml", b"<annotation/>", "it is XML or HTML"),
        ("data.txt", b"path: x\nnames:\n  0: red apple\n", "it looks like YAML: give it a name that ends in .yaml"),
        ("list.txt", b'["dog"]', "it looks like JSON: give it a name that ends in .json"),
        ("lines.jsonl", b'{"name": "dog"}\n{"name": "cat"}\n', "it looks like JSON"),
        ("cut.json", b'{"categories": [', "cut.json cannot be read as a category list: Expecting value"),
        ("other.json", b'{"path": "x", "train": "y"}', "it maps 'path' to 'x': wanted ids and names; wanted one name"),
        ("text.json", b'"dog"', "wanted a list or an object, got str"),
        ("deep.json", b"[" * 100_000, "maximum recursion depth|nested|recursion"),
        ("nothing.json", b"{}", "nothing.json holds no category"),
        ("null.json", b'["dog", null]', "null.json, category 2: wanted a name, got 'None'"),
        ("nested.json", b'[["dog"]]', "category 1: wanted a name"),
        ("bad.yaml", b"names: [dog", "bad.yaml cannot be read as a category list: while parsing"),
        ("two.csv", b"/m/01,Tortoise\n/m/02,Cat\n", "several columns and none is called 'name': /m/01, Tortoise"),
        ("gap.csv", b"id,name\n1,dog\n2,\n", "gap.csv, category 2: wanted a name, got '': empty name"),
        ("quote.csv", b'name\n"dog\n', "quote.csv cannot be read as a category list: unexpected end of data"),
    ],
)
def test_files_without_names(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)

    with pytest.raises(ValueError, match=message):
        read_names(tmp_path / name)


def test_a_folder_is_no_file_of_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read as a category list: Is a directory"):
        read_names(tmp_path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda text: text.encode("utf-8", "ignore"))),
    suffix=st.sampled_from([".txt", ".csv", ".json", ".yaml"]),
)
def test_any_file_gives_names_or_one_error(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    try:
        names, message = read_names(path), str(path)
    except ValueError as error:
        names, message = ["dog"], str(error)
    assert names
    assert all(name.strip() for name in names)
    assert str(path) in message


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["dog", " red apple "], ["dog", "red apple"]),
        (("dog",), ["dog"]),
        ((name for name in ("dog", "cat")), ["dog", "cat"]),
        ({"dog", "cat", "ape"}, ["ape", "cat", "dog"]),
        (frozenset({"dog", "cat"}), ["cat", "dog"]),
        ({7: "dog", 3: "cat"}, ["dog", "cat"]),
        ({"0": "dog", "1": "cat"}, ["dog", "cat"]),
        ({"dog": 0, "cat": 1}, ["dog", "cat"]),
        ({"dog": 0, "cat": 1}.keys(), ["cat", "dog"]),
        ({3: "dog", 1: "cat"}.values(), ["dog", "cat"]),
        (np.array(["dog", "cat"]), ["dog", "cat"]),
        (np.array(["dog", "cat"], dtype=object), ["dog", "cat"]),
        (["\ufeffdog"], ["dog"]),
    ],
)
def test_names_of_any_iterable(names: Any, wanted: list[str]) -> None:
    found = checked_names(names)
    assert found == wanted
    assert {type(name) for name in found} == {str}


class Table:
    """A table's iteration gives the names of its columns."""

    ndim = 2

    def __iter__(self) -> Iterator[str]:
        return iter(["name"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("dog", r"names is the single text 'dog': give a list, such as \['dog'\]"),
        (b"dog", "names is a bytes: give a list of texts"),
        (None, "names is None: give a list of texts"),
        (3, "names is an int: give a list of texts"),
        ([], "no names to look for: give at least one"),
        ({}, "no names to look for"),
        ((name for name in ()), "no names to look for"),
        (np.array([], dtype=str), "no names to look for"),
        (np.array([["dog"]]), "names is a ndarray of 2 dimensions"),
        (np.array("dog"), "names is a ndarray of 0 dimensions"),
        (Table(), "names is a Table of 2 dimensions"),
        (np.array([0.5]), r"name number 1 of 1 is a float64? \(0.5\), not a text"),
        (["dog", None], r"name number 2 of 2 is None \(None\), not a text"),
        (["dog", float("nan")], r"name number 2 of 2 is a float \(nan\), not a text"),
        ([["dog"]], r"name number 1 of 1 is a list \(\['dog'\]\), not a text"),
        ({1: None}, "name number 1 of 1 is None"),
        ({"dog": "cat"}, "names maps 'dog' to 'cat': wanted ids and names"),
        (["dog", " \ufeff "], "name number 2 of 2 is empty"),
    ],
)
def test_what_are_no_names(names: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked_names(names)


def test_distinct_names() -> None:
    assert distinct_names(["Apple", "dog", "apple", "dog ", "traffic_light", "traffic light"]) == [
        "Apple",
        "dog",
        "traffic_light",
    ]
