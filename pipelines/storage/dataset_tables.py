"""Index of a dataset's tables: which table each shard of an asset has now.

``<root>/datasets/<name>/tables/<asset>.json`` maps shards to fingerprints. While an asset runs, ``due/<asset>.json`` maps those
that it makes, so that the finished tables of a killed build are not taken for garbage.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from pipelines.storage.roots import Location, write_text_atomically
from pipelines.storage.table_store import PublishedTable, read_tables
from schemas.manifest import Sha256, first_error
from schemas.paths import is_regular

DATASETS = "datasets"
_FINGERPRINTS = TypeAdapter(dict[str, Sha256])


@dataclass(frozen=True, kw_only=True)
class DatasetTables:
    """The index of one dataset, whose folder is ``<root>/datasets/<name>``."""

    root: Location
    folder: Location

    def is_built(self, asset: str) -> bool:
        """Whether a build has come to this asset."""
        return is_regular(self._path("tables", asset))

    def fingerprints(self, asset: str) -> dict[str, str]:
        """By shard; none where the asset was not built."""
        return _read(self._path("tables", asset)) if self.is_built(asset) else {}

    def read(self, asset: str) -> dict[str, PublishedTable | None]:
        """The tables by shard, in order; None where one was removed since."""
        return read_tables(self.root, asset, self.fingerprints(asset))

    def start(self, asset: str, due: Mapping[str, str]) -> None:
        """Name the fingerprints that a run makes, by shard, before it starts."""
        if due:
            _write(self._path("due", asset), due)

    def finish(self, asset: str, fingerprints: Mapping[str, str]) -> None:
        """Name the tables that the dataset has after a run."""
        _write(self._path("tables", asset), fingerprints)
        self._path("due", asset).unlink(missing_ok=True)

    def _path(self, kind: str, asset: str) -> Location:
        return self.folder / kind / f"{asset}.json"


def indexed_tables(root: Location) -> Iterator[tuple[str, dict[str, str]]]:
    """Asset and fingerprints by shard, of all that the datasets of a root have and of all that unfinished builds make."""
    for kind in ("tables", "due"):
        for path in (root / DATASETS).glob(f"*/{kind}/*.json"):
            yield path.stem, _read(path)


def _write(path: Location, fingerprints: Mapping[str, str]) -> None:
    write_text_atomically(path, json.dumps(fingerprints, indent=2, sort_keys=True) + "\n")


def _read(path: Location) -> dict[str, str]:
    if not is_regular(path):
        raise ValueError(f"{path} is no regular file; remove it and build again, which finds the tables that are there")
    try:
        return _FINGERPRINTS.validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(
            f"{path} is damaged: {first_error(error)}; remove it and build again, which finds the tables that are there"
        ) from error
