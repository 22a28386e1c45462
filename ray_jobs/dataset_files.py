"""Dataset files on this machine: local files as they are, verified copies of files on an object store."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from detclipv2.data.tar_shards import ShardIndex
from pipelines.storage import Location, fetch, sha256_file
from pipelines.storage import data_root as fresh_root
from schemas.conform import conform
from schemas.manifest import MANIFEST_NAME, DatasetManifest, FileEntry, Manifest, manifest_path
from schemas.shard_index import SHARD_INDEX


def root_of_dataset(dataset: str | Location) -> Location:
    """The data root of ``<root>/datasets/<name>[/MANIFEST.json]``, which the paths in the manifest are relative to.

    Raises:
        ValueError: there is no client for URLs of this kind.
    """
    return manifest_path(fresh_root(dataset)).parent.parent.parent


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


class ValidationSet:
    """A dataset's validation set: LVIS annotations, and images by their file names."""

    def __init__(self, dataset: DatasetManifest, *, data_root: Location) -> None:
        """Read the annotations.

        Raises:
            ValueError: the dataset has no validation set, or an object store has other annotations.
            FileNotFoundError: the annotations are gone.
        """
        if dataset.validation_annotations is None or dataset.validation_images is None:
            raise ValueError(
                f"dataset {dataset.name} has no validation set: build it with --detection, or with --validation"
            )
        self.folder = data_root / dataset.validation_images
        self.annotations_path = local_file(dataset.validation_annotations, data_root=data_root)
        self.ground_truth: dict[str, Any] = json.loads(self.annotations_path.read_text())

    @cached_property
    def names(self) -> dict[int, str]:
        """Names of the categories by their ids, in the order of the annotations."""
        return {category["id"]: category["name"].replace("_", " ") for category in self.ground_truth["categories"]}

    @cached_property
    def file_names(self) -> dict[int, str]:
        """File names of the images by their ids; LVIS names an image by its URL."""
        return {
            image["id"]: str(image.get("file_name") or image["coco_url"]).rsplit("/", 1)[-1]
            for image in self.ground_truth["images"]
        }

    def path(self, image_id: int) -> Path:
        """An image on this machine.

        Raises:
            ValueError: the manifest of the validation set (which one on an object store has to have) names no such image, or
                the image has another content.
            FileNotFoundError: it is gone from there.
        """
        image = self.folder / self.file_names[image_id]
        if isinstance(image, Path) and not self._manifest_path.is_file():  # not of a build: see `evaluate_annotations`
            return image
        sha256 = self._sha256.get(f"{self.folder.name}/{image.name}")
        if sha256 is None:
            raise ValueError(f"validation image {image} is not in the validation set; build the dataset again")
        if isinstance(image, Path) and sha256_file(image) != sha256:
            raise ValueError(
                f"validation image {image} is not what was built: its sha256 differs; build the dataset again"
            )
        return fetch(image, sha256=sha256)

    @property
    def _manifest_path(self) -> Location:
        return self.folder.parent / MANIFEST_NAME

    @cached_property
    def _sha256(self) -> dict[str, str]:
        path = self._manifest_path
        try:
            manifest = Manifest.model_validate_json(path.read_text())
        except (FileNotFoundError, ValueError) as error:
            raise ValueError(f"validation set {path} cannot be read: {error}; build the dataset again") from error
        return {entry.path: entry.sha256 for entry in manifest.files}
