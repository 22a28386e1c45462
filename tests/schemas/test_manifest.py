import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ray_jobs.dataset_files import root_of_dataset
from schemas.manifest import MANIFEST_NAME, DatasetManifest, FileEntry, Manifest, fingerprint, read_dataset_manifest

ENTRY = FileEntry(path="kept.parquet", sha256="0" * 64, num_bytes=10, num_rows=2)


def manifest(**changes: object) -> Manifest:
    values = {
        "stage": "filters",
        "stage_version": 1,
        "fingerprint": "f",
        "rows_in": 3,
        "rows_kept": 2,
        "files": [ENTRY],
    }
    return Manifest(**values | changes)


def test_fingerprint_depends_on_every_part_and_on_no_order() -> None:
    base = {"stage": "filters", "version": 1, "config": {"a": 1, "b": 2}, "parents": {"x": "1", "y": "2"}}
    same = base | {"config": {"b": 2, "a": 1}, "parents": {"y": "2", "x": "1"}}
    assert fingerprint(**base) == fingerprint(**same)
    for change in ({"stage": "dedup"}, {"version": 2}, {"config": {"a": 1}}, {"parents": {"x": "1"}}):
        assert fingerprint(**base | change) != fingerprint(**base)


def test_digest_is_of_the_content_alone() -> None:
    assert manifest().digest == manifest(fingerprint="g", stage_version=2, config={"a": 1}).digest
    other = ENTRY.model_copy(update={"sha256": "1" * 64})
    assert manifest().digest != manifest(files=[other]).digest


def test_reading_a_dataset_manifest_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "MANIFEST.json"
    with pytest.raises(ValueError, match="no dataset at .*build one with"):
        read_dataset_manifest(path)
    path.write_text('{"name": "demo"')
    with pytest.raises(ValueError, match="is not a dataset manifest of version 1"):
        read_dataset_manifest(path)
    whole = DatasetManifest(name="demo", supervisions={}, boxed_concepts=["apple"])
    path.write_text(whole.model_dump_json())
    assert read_dataset_manifest(path) == whole
    assert read_dataset_manifest(path).digest == whole.digest


def test_a_dataset_is_named_by_its_folder_or_its_manifest(tmp_path: Path) -> None:
    manifest = DatasetManifest(name="mine", supervisions={}, boxed_concepts=[])
    folder = tmp_path / "datasets" / "mine"
    folder.mkdir(parents=True)
    (folder / MANIFEST_NAME).write_text(manifest.model_dump_json())

    assert read_dataset_manifest(folder) == read_dataset_manifest(folder / MANIFEST_NAME) == manifest
    assert root_of_dataset(folder) == root_of_dataset(str(folder / MANIFEST_NAME)) == tmp_path
    with pytest.raises(ValueError, match="no dataset at .*/nowhere/MANIFEST.json: build one"):
        read_dataset_manifest(tmp_path / "nowhere")


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "", "c:/x", "a\\..\\x", "s3://bucket/x", "a\0b"])
def test_a_path_that_leads_out_of_its_folder_is_no_entry(path: str) -> None:
    with pytest.raises(ValidationError, match="leads out of its folder"):
        FileEntry(path=path, sha256="0" * 64, num_bytes=0, num_rows=0)
    with pytest.raises(ValidationError, match="leads out of its folder"):
        DatasetManifest(name="x", supervisions={}, boxed_concepts=[], validation_images=path)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    ),
    st.sampled_from(["name", "supervisions", "boxed_concepts", "validation_annotations", "funnel", "parents", "more"]),
)
def test_a_dataset_manifest_with_any_value_is_read_or_named(
    tmp_path_factory: pytest.TempPathFactory, value: Any, field: str
) -> None:
    path = tmp_path_factory.mktemp("manifest") / MANIFEST_NAME
    whole = DatasetManifest(name="demo", supervisions={}, boxed_concepts=["apple"]).model_dump()
    path.write_text(json.dumps({**whole, field: value}))
    try:
        read_dataset_manifest(path)
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017 - most values are read
