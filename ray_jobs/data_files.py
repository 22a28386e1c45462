"""The files that a dataset names, on this machine: where they lie, or verified copies of what lies on an object store."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from detclipv2.data.tar_shards import ShardIndex
from pipelines.storage import Location, fetch
from pipelines.storage import data_root as fresh_root
from schemas.conform import conform
from schemas.manifest import MANIFEST_NAME, DatasetManifest, FileEntry, Manifest
from schemas.shards import SHARD_INDEX


def local_file(entry: FileEntry, *, data_root: Location) -> Path:
    """A file of a dataset manifest.

    Raises:
        ValueError: an object store has another content under its name.
        FileNotFoundError: an object store does not have it.
    """
    return fetch(data_root / entry.path, sha256=entry.sha256)


def shard_index(entry: FileEntry, *, data_root: Location) -> ShardIndex:
    """The index of a shard, from `SupervisionSplit.indexes` of a dataset manifest.

    Raises:
        ValueError: it is damaged, or has other columns; or an object store has another content under its name.
        FileNotFoundError: it is gone.
    """
    # With a client of this process: a loader process is a fork of the training's, whose client does not survive that.
    path = local_file(entry, data_root=fresh_root(str(data_root)))
    try:
        table = conform(pq.read_table(path), SHARD_INDEX, where="its index")
    except (pa.ArrowException, ValueError) as error:
        raise ValueError(f"shard index {path} cannot be read: {error}; build the dataset again") from error
    return ShardIndex(
        offsets=table["offset"].to_numpy(),
        num_bytes=table["num_bytes"].to_numpy(),
        is_portrait=table["height"].to_numpy() > table["width"].to_numpy(),
    )


class ValidationImages:
    """The images of a dataset's validation set, by their file names."""

    def __init__(self, dataset: DatasetManifest, *, data_root: Location) -> None:
        """Read which images there are, where they lie on an object store.

        Raises:
            ValueError: there the validation set has no manifest.
        """
        assert dataset.validation_images is not None
        self._folder = data_root / dataset.validation_images
        self._sha256: dict[str, str] = {}
        if isinstance(self._folder, Path):
            return
        path = self._folder.parent / MANIFEST_NAME
        try:
            manifest = Manifest.model_validate_json(path.read_text())
        except (FileNotFoundError, ValueError) as error:
            raise ValueError(f"validation set {path} cannot be read: {error}; build the dataset again") from error
        self._sha256 = {entry.path: entry.sha256 for entry in manifest.files}

    def path(self, name: str) -> Path:
        """An image on this machine.

        Raises:
            ValueError: the validation set on an object store names no such image, or it has another content there.
            FileNotFoundError: it is gone from there.
        """
        image = self._folder / name
        if isinstance(image, Path):
            return image
        sha256 = self._sha256.get(f"{self._folder.name}/{name}")
        if sha256 is None:
            raise ValueError(f"validation image {image} is not in the validation set; build the dataset again")
        return fetch(image, sha256=sha256)
