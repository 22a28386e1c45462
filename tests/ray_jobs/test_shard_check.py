"""The files of a dataset are those of its manifest, or training does not begin."""

import json
import os
from pathlib import Path

import pytest

from ray_jobs.dataset_files import ValidationSet
from ray_jobs.shard_check import check_shards
from schemas.manifest import MANIFEST_NAME, DatasetManifest, read_dataset_manifest
from tests.ray_jobs.small_dataset import sample, write_dataset


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DatasetManifest:
    monkeypatch.setenv("DETCLIPV2_CACHE", str(tmp_path / "cache"))
    return read_dataset_manifest(
        write_dataset(tmp_path, [sample("detection", ["apple"], boxes=1)] * 3, validation_boxes=1)
    )


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("which", ["shards/detection.tar", "index", "validation/annotations.json"])
def test_one_bit(which: str, dataset: DatasetManifest, tmp_path: Path) -> None:
    check_shards(dataset, tmp_path)
    path = tmp_path / (dataset.supervisions["detection"].indexes[0].path if which == "index" else which)
    _flip(path)

    with pytest.raises(ValueError, match=f"{path.name} has another content than when it was built"):
        check_shards(dataset, tmp_path)
    with pytest.raises(ValueError, match="another content"):
        check_shards(dataset, tmp_path)
    _flip(path)
    check_shards(dataset, tmp_path)


def test_an_unchanged_file_is_read_once(
    dataset: DatasetManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_shards(dataset, tmp_path)

    def reads(path: Path) -> str:
        raise AssertionError(f"{path} is read again")

    with monkeypatch.context() as patch:
        patch.setattr("ray_jobs.shard_check.sha256_file", reads)
        check_shards(dataset, tmp_path)
    os.utime(tmp_path / "shards/detection.tar", ns=(1, 1))
    monkeypatch.setattr("ray_jobs.shard_check.sha256_file", reads)
    with pytest.raises(AssertionError, match="detection.tar is read again"):
        check_shards(dataset, tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "[" * 200_000, '{"x": 1}', "\x00"])
def test_a_damaged_memory_costs_time_alone(content: str, dataset: DatasetManifest, tmp_path: Path) -> None:
    check_shards(dataset, tmp_path)
    (tmp_path / "cache/file_digests.json").write_text(content)

    check_shards(dataset, tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "folder", "gone"])
def test_what_is_no_file(kind: str, dataset: DatasetManifest, tmp_path: Path) -> None:
    path = tmp_path / "shards/detection.tar"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()

    with pytest.raises(ValueError, match="detection.tar is (missing|no regular file)"):
        check_shards(dataset, tmp_path)


def test_a_validation_image_that_was_swapped(dataset: DatasetManifest, tmp_path: Path) -> None:
    image = tmp_path / "validation/images/1.jpg"
    validation = ValidationSet(dataset, data_root=tmp_path)
    assert validation.path(1) == image
    listed = {"path": "images/1.jpg", "sha256": "0" * 64, "num_bytes": 1, "num_rows": 1}
    manifest = {"stage": "validation", "stage_version": 1, "fingerprint": "f", "rows_in": 1, "rows_kept": 1}
    (tmp_path / "validation" / MANIFEST_NAME).write_text(json.dumps(manifest | {"files": [listed]}))

    with pytest.raises(ValueError, match=r"1\.jpg is not what was built"):
        ValidationSet(dataset, data_root=tmp_path).path(1)
