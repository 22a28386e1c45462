"""Garbled state of a data root: every file is named or made anew, and nothing outside of the root is read or advised away."""

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from pipelines.build.dagster_assets import dagster_home
from pipelines.build.dataset_manifest import publish_dataset
from pipelines.build.retries import RETRIES_NAME, Retries
from pipelines.inspect.built_dataset import open_dataset
from pipelines.inspect.gc import collect, referenced_tables
from pipelines.inspect.samples import draw_samples
from pipelines.inspect.verify import FIX, check_dataset
from pipelines.stages.phrase_cache import ParsedCaption, PhraseCache
from pipelines.storage import read_table
from pipelines.storage.dataset_tables import DatasetTables, indexed_tables
from pipelines.storage.table_store import _noted_tags
from schemas.manifest import (
    MANIFEST_NAME,
    DatasetManifest,
    FileEntry,
    Manifest,
    SupervisionSplit,
    read_dataset_manifest,
)

pytestmark = pytest.mark.timeout(60)

DEEP = "[" * 100_000
GARBAGE = {
    "empty": b"",
    "bytes": b"\xff\xfe\x00garbage",
    "cut": b'{"a": [',
    "deep": DEEP.encode(),
    "null": b"null",
    "list": b"[1]",
    "number": b"9" * 5000,
    "surrogate": b'{"\\ud800": "\\udfff"}',
    "values": b'{"a": 1e999, "b": [{}], "c": -1}',
    "html": b"<html>sign in</html>",
}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.just("../../etc/passwd")
    | st.just(-(10**30)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)
MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def placed(path: Path, content: bytes | str) -> Path:
    """The file with this content, or a pipe."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if content == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


ALL = {**GARBAGE, "pipe": "pipe"}


@pytest.mark.parametrize("content", ALL.values(), ids=ALL)
def test_a_garbled_record_of_retries_is_named(tmp_path: Path, content: bytes | str) -> None:
    placed(tmp_path / RETRIES_NAME, content)
    with pytest.raises(ValueError, match=r"retries.json is damaged: .*; bring back a copy, or move it away") as error:
        Retries.read(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "other.parquet", "kept.parquet/../x"])
def test_a_record_of_retries_names_no_other_file(tmp_path: Path, name: str) -> None:
    attempt = {"reasons": ["dns"], "num_rows": 1, "previous": {name: "0" * 64}}
    placed(tmp_path / RETRIES_NAME, json.dumps({"f": [attempt]}))
    with pytest.raises(ValueError, match=r"retries.json is damaged"):
        Retries.read(tmp_path)


@pytest.mark.parametrize("content", ALL.values(), ids=ALL)
def test_a_garbled_manifest_of_a_table_is_none(tmp_path: Path, content: bytes | str) -> None:
    placed(tmp_path / "urls" / ("0" * 16) / MANIFEST_NAME, content)
    assert read_table(tmp_path, "urls", "0" * 64) is None


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_garbled_tags_are_none(tmp_path: Path, content: bytes) -> None:
    assert _noted_tags(placed(tmp_path / "TAGS.json", content)) == {}


@pytest.mark.parametrize("content", ALL.values(), ids=ALL)
def test_a_garbled_index_of_tables_is_named(tmp_path: Path, content: bytes | str) -> None:
    path = placed(tmp_path / "datasets/mine/tables/urls.json", content)
    tables = DatasetTables(root=tmp_path, folder=tmp_path / "datasets/mine")
    if content != "pipe":
        with pytest.raises(ValueError, match=rf"{path} is damaged: .*; remove it and build again"):
            tables.fingerprints("urls")
    with pytest.raises(ValueError, match=rf"{path} is "):
        list(indexed_tables(tmp_path))


@pytest.mark.parametrize("content", ALL.values(), ids=ALL)
def test_a_garbled_manifest_of_a_dataset_is_named_and_made_anew(tmp_path: Path, content: bytes | str) -> None:
    folder = tmp_path / "datasets/mine"
    path = placed(folder / MANIFEST_NAME, content)
    with pytest.raises(ValueError, match=str(path)) as error:
        read_dataset_manifest(path)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=str(path)):
        referenced_tables(tmp_path)
    if content == "pipe":
        return
    manifest = DatasetManifest(name="mine", supervisions={}, boxed_concepts=[])
    assert publish_dataset(manifest, folder=folder) in ("made anew, the one before was damaged",) or content[:1] == b"{"
    assert read_dataset_manifest(path) == manifest


@MANY
@given(value=JSON, field=st.sampled_from(sorted(Manifest.model_fields)))
def test_any_value_in_a_manifest_is_read_or_none(tmp_path: Path, value: Any, field: str) -> None:
    whole = Manifest(stage="urls", stage_version=1, fingerprint="0" * 64, rows_in=1, rows_kept=1, files=[])
    content = json.dumps({**whole.model_dump(), field: value}, ensure_ascii=True)
    placed(tmp_path / "urls" / ("0" * 16) / MANIFEST_NAME, content)
    table = read_table(tmp_path, "urls", "0" * 64)
    assert table is None or not table.manifest.stage.startswith(("/", ".."))


@MANY
@given(value=JSON)
def test_any_record_of_retries_is_read_or_named(tmp_path: Path, value: Any) -> None:
    path = placed(tmp_path / RETRIES_NAME, json.dumps({"f": [{"reasons": value, "num_rows": 1, "previous": value}]}))
    try:
        Retries.read(tmp_path)
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017


@MANY
@given(value=JSON)
def test_any_index_of_tables_is_read_or_named(tmp_path: Path, value: Any) -> None:
    path = placed(tmp_path / "datasets/mine/tables/urls.json", json.dumps(value))
    try:
        DatasetTables(root=tmp_path, folder=tmp_path / "datasets/mine").fingerprints("urls")
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017


@pytest.mark.parametrize("path", ["x.tar", "datasets/mine/x.tar", "a/b/c/x.tar", "..tar", " .tar", "-.tar"])
@pytest.mark.parametrize("kind", ["missing", "garbage", "pipe", "folder"])
def test_no_advice_deletes_a_folder(tmp_path: Path, path: str, kind: str) -> None:
    entry = FileEntry(path=path, sha256="0" * 64, num_bytes=1, num_rows=1)
    split = SupervisionSplit(num_samples=1, shards=[entry], indexes=[entry])
    manifest = DatasetManifest(name="mine", supervisions={"detection": split}, boxed_concepts=[])
    placed(tmp_path / "datasets/mine" / MANIFEST_NAME, manifest.model_dump_json())
    if kind == "folder":
        (tmp_path / path).mkdir(parents=True)
    elif kind != "missing":
        placed(tmp_path / path, "pipe" if kind == "pipe" else b"x" * 1000)
    dataset = open_dataset(tmp_path / "datasets/mine")
    found = check_dataset(dataset, num_workers=1, console=Console(quiet=True))
    said = f"{found} {FIX}"
    assert found[path]
    assert "delete" not in said and "remove" not in said
    with pytest.raises(ValueError, match=r"."):
        draw_samples(dataset, "detection", num=1, seed=0)


def test_what_a_link_leads_to_is_no_garbage(tmp_path: Path) -> None:
    root, other = tmp_path / "data", tmp_path / "photos"
    (root / "datasets/mine/tables").mkdir(parents=True)
    (root / "datasets/mine/tables/urls.json").write_text(json.dumps({"a": "1" * 64}))
    placed(other / ("0" * 16) / "photo.jpg", b"precious")
    (root / "urls").symlink_to(other)
    assert collect(root, delete=True) == []
    assert (other / ("0" * 16) / "photo.jpg").read_bytes() == b"precious"


@pytest.mark.parametrize("row", ["", "null", "[1]", '["a", [[1]]]', '{"a": 1}', DEEP, '["a", [["b", "x", 1]]]'])
def test_a_damaged_row_of_the_cache_is_parsed_again(tmp_path: Path, row: str) -> None:
    with PhraseCache(tmp_path, identity="0" * 64) as cache:
        cache.keep(
            {"a dog": ParsedCaption(caption="a dog", phrases=()), "a cat": ParsedCaption(caption="a cat", phrases=())}
        )
    with sqlite3.connect(cache.path) as database:
        database.execute("UPDATE captions SET parsed = ? WHERE parsed LIKE '%dog%'", [row])
    with PhraseCache(tmp_path, identity="0" * 64) as cache:
        assert set(cache.recall(["a dog", "a cat"])) == {"a cat"}


@pytest.mark.parametrize("name", ["history/runs.db", "history/runs/index.db", "schedules/schedules.db"])
def test_a_garbled_history_of_builds_is_set_aside(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with dg.DagsterInstance.from_config(str(dagster_home(tmp_path))):
        pass
    path = placed(Path(str(tmp_path / "dagster" / name)), b"garbage" * 1000)
    with dg.DagsterInstance.from_config(str(dagster_home(tmp_path))) as instance:
        assert instance.get_runs() == []
    assert f"{path} is damaged: the history of builds begins anew" in capsys.readouterr().err
    assert (tmp_path / "dagster-damaged-1" / name).read_bytes() == b"garbage" * 1000
    with dg.DagsterInstance.from_config(str(dagster_home(tmp_path))):
        pass
    assert not capsys.readouterr().err
