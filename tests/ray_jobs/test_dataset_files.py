from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from detclipv2.data.tar_shards import scan_shard
from pipelines.stages.training_shards import write_shard
from pipelines.storage import sha256_file
from ray_jobs.dataset_files import shard_index
from schemas.manifest import FileEntry
from schemas.source_images import BoxedImage
from schemas.training import TrainingSample


@pytest.fixture
def index_entry(tmp_path: Path) -> FileEntry:
    """The index of a shard of three images: landscape, portrait, square."""
    images = [
        BoxedImage(
            key=f"key{number}",
            jpeg=b"image" * (number + 1) * 100,
            sample=TrainingSample(supervision="detection", width=width, height=height, concepts=["owl"]),
            dropped_boxes={},
        )
        for number, (width, height) in enumerate([(9, 8), (8, 9), (8, 8)])
    ]
    write_shard(tmp_path / "a.tar", images)
    path = tmp_path / "a.index.parquet"
    return FileEntry(path=path.name, sha256=sha256_file(path), num_bytes=path.stat().st_size, num_rows=3)


def test_the_index_that_was_written_says_what_the_tar_does(tmp_path: Path, index_entry: FileEntry) -> None:
    found = shard_index(index_entry, data_root=tmp_path)
    scanned = scan_shard(str(tmp_path / "a.tar"), supervision="detection")

    assert found.is_portrait.tolist() == [False, True, False]
    for name in ("offsets", "num_bytes", "is_portrait"):
        ours, theirs = getattr(found, name), getattr(scanned, name)
        assert np.array_equal(ours, theirs) and ours.dtype == theirs.dtype


def test_an_index_of_an_older_version(tmp_path: Path, index_entry: FileEntry) -> None:
    path = tmp_path / index_entry.path
    pq.write_table(pq.read_table(path).drop_columns(["width", "height"]), path)
    message = f"^shard index {path} cannot be read: its index: missing column.* 'height'.*; build the dataset again$"
    with pytest.raises(ValueError, match=message):
        shard_index(index_entry, data_root=tmp_path)


def test_a_damaged_index(tmp_path: Path, index_entry: FileEntry) -> None:
    path = tmp_path / index_entry.path
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"^shard index {path} cannot be read: .*; build the dataset again$"):
        shard_index(index_entry, data_root=tmp_path)
