"""Built dataset, opened for inspection."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from pipelines.storage import Location, PublishedTable, data_root, fetch
from pipelines.storage.dataset_tables import DatasetTables
from schemas.conform import conform
from schemas.manifest import DatasetManifest, FileEntry, manifest_path, read_dataset_manifest
from schemas.paths import is_regular
from schemas.shard_index import SHARD_INDEX


@dataclass(frozen=True, kw_only=True)
class BuiltDataset:
    """A dataset manifest and the data root that its paths are relative to."""

    root: Location
    folder: Location
    manifest: DatasetManifest

    def tables(self, asset: str) -> dict[str, PublishedTable]:
        """The tables that the dataset has of an asset, by shard; those that were removed since are left out."""
        tables = DatasetTables(root=self.root, folder=self.folder).read(asset)
        return {shard: table for shard, table in tables.items() if table is not None}

    def local(self, entry: FileEntry) -> Path:
        """A file of the dataset on this machine: where the root is an object store, a verified copy."""
        return fetch(self.root / entry.path, sha256=entry.sha256)

    @property
    def num_captions(self) -> int:
        """Captions of the image-text samples: no fewer than these, since an image may have several."""
        return sum(table.manifest.rows_kept for table in self.tables("image_text_shards").values())

    def index(self, supervision: str, shard: int) -> pa.Table:
        """The index of a shard, by its position among those of its type: a table of `SHARD_INDEX`.

        Raises:
            ValueError: the dataset was built before shards had one, or it is damaged.
        """
        split = self.manifest.supervisions[supervision]
        if len(split.indexes) != len(split.shards):
            raise ValueError(f"dataset {self.manifest.name}: its shards have no index; build it again to make them")
        path = self.local(split.indexes[shard])
        if not is_regular(path):
            raise ValueError(f"{path} is missing, or no regular file: build the dataset again")
        try:
            return conform(pq.read_table(path), SHARD_INDEX, where=str(path))
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} is damaged: {error}; build the dataset again") from error


def open_dataset(location: str | Path | UPath) -> BuiltDataset:
    """Open a dataset by its folder or manifest, ``<root>/datasets/<name>[/MANIFEST.json]``, a path or a URL.

    Raises:
        ValueError: there is none.
    """
    path = manifest_path(data_root(location))
    manifest = read_dataset_manifest(path)
    return BuiltDataset(root=path.parent.parent.parent, folder=path.parent, manifest=manifest)
