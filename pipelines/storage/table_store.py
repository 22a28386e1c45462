"""Table store: ``<root>/<stage>/<fingerprint[:16]>/`` with the manifest as the last file written.

A reader sees all of a table or nothing, and nothing complete is overwritten. Bytes depend on the inputs alone: no time, no
absolute path, fixed compression.
"""

import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter
from upath import UPath

from pipelines.storage.file_cache import fetch
from pipelines.storage.roots import Location, sha256_file
from schemas.manifest import MANIFEST_NAME, Manifest
from schemas.paths import is_regular

KEPT = "kept.parquet"
DROPPED = "dropped.parquet"
WHOLE = "all"  # the shard name of a table that holds every shard, each in a folder of its own
# Requests to an object store under way at once; a thousand tables are then read in seconds.
NUM_CONCURRENT = 16
# Beside the manifest of a table in an object store: the entity tag of every file as the store gave it when it was published.
TAGS_NAME = "TAGS.json"
_TAGS = TypeAdapter(dict[str, str])


@dataclass(frozen=True, kw_only=True)
class TableFile:
    """A published file as the input of another job.

    ``name`` is ``<asset>/<shard>/<file>``. A job is keyed by the name and the content of what it reads, not by who made it:
    a parent that ran again and gave the same bytes leaves its children valid.
    """

    name: str
    path: Location
    sha256: str
    num_rows: int

    def local(self) -> Path:
        """The file on this machine, to be opened: where it lies on an object store, a verified copy."""
        return fetch(self.path, sha256=self.sha256)


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a job wrote into its folder. Files that ``num_rows`` does not name count as one row (an image)."""

    rows_in: int
    rows_kept: int
    dropped: dict[str, int] = field(default_factory=dict)
    num_rows: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """A complete table of one shard."""

    folder: Location
    manifest: Manifest

    def file(self, path: str, *, name: str | None = None) -> TableFile:
        """The file at ``path`` in the folder as the input of another job; its name is ``<stage>/<shard>/<path>`` unless given."""
        entry = next(entry for entry in self.manifest.files if entry.path == path)
        return TableFile(
            name=name or f"{self.manifest.stage}/{self.manifest.shard}/{path}",
            path=self.folder / path,
            sha256=entry.sha256,
            num_rows=entry.num_rows,
        )


def kept_files(tables: Mapping[str, PublishedTable]) -> dict[str, TableFile]:
    """The kept rows of an asset by shard, whether it published a table a shard or one for all."""
    return files_by_shard(tables, KEPT)


def files_by_shard(tables: Mapping[str, PublishedTable], file_name: str) -> dict[str, TableFile]:
    """The files of one name of an asset by shard, such as `DROPPED`, whether it published a table a shard or one for all."""
    files = {}
    for table in tables.values():
        for entry in table.manifest.files:
            folder, _, name = entry.path.rpartition("/")
            if name == file_name:
                shard = folder or str(table.manifest.shard)
                files[shard] = table.file(entry.path, name=f"{table.manifest.stage}/{shard}/{file_name}")
    return dict(sorted(files.items()))


def table_name(stage: str, fingerprint: str) -> str:
    """Where the table of a fingerprint lies, relative to the data root."""
    return f"{stage}/{fingerprint[:16]}"


def read_table(root: Location, stage: str, fingerprint: str) -> PublishedTable | None:
    """The table of this fingerprint, or None where none was published. Its files are not looked at: see `verify`."""
    folder = root / table_name(stage, fingerprint)
    path = folder / MANIFEST_NAME
    if isinstance(path, Path) and not is_regular(path):
        return None
    try:
        manifest = Manifest.model_validate_json(path.read_text())
    except (FileNotFoundError, ValueError):  # a damaged one is none: its table is made anew
        return None
    return PublishedTable(folder=folder, manifest=manifest) if manifest.fingerprint == fingerprint else None


def read_tables(root: Location, stage: str, fingerprints: Mapping[str, str]) -> dict[str, PublishedTable | None]:
    """The table of each fingerprint, by shard, in the order of the shards; read concurrently, since each is a request or two."""
    shards = sorted(fingerprints)
    with ThreadPoolExecutor(NUM_CONCURRENT) as pool:
        tables = pool.map(lambda shard: read_table(root, stage, fingerprints[shard]), shards)
        return dict(zip(shards, tables, strict=True))


def verify(table: PublishedTable) -> str | None:
    """Compare every file with the manifest; say what is wrong, or None.

    Local files are read and hashed. On an object store one listing gives presence, size and entity tag; files whose tag is the
    one that was noted when they were published are not read again, others (of a mirror, or of a store without tags) are.
    """
    if isinstance(table.folder, Path):
        return verify_content(table)
    found = listing(table.folder)
    noted = _noted_tags(table.folder / TAGS_NAME) if TAGS_NAME in found else {}
    unchanged = {name for name, listed in found.items() if listed.tag is not None and listed.tag == noted.get(name)}
    return _problem(table, {name: listed.num_bytes for name, listed in found.items()}, unchanged=unchanged)


def _noted_tags(path: Location) -> dict[str, str]:
    """The entity tags of a table's files; none where they are damaged, so that the files are read."""
    try:
        return _TAGS.validate_json(path.read_bytes())
    except ValueError:
        return {}


def verify_content(table: PublishedTable) -> str | None:
    """Compare presence, size and sha256 of every file with the manifest, wherever it lies; say what is wrong, or None."""
    paths = {entry.path: table.folder / entry.path for entry in table.manifest.files}
    num_bytes = {name: path.stat().st_size for name, path in paths.items() if is_regular(path)}
    return _problem(table, num_bytes, unchanged=set())


def _problem(table: PublishedTable, num_bytes: Mapping[str, int], *, unchanged: set[str]) -> str | None:
    """What is wrong with the first bad file: of sizes ``num_bytes``; the ``unchanged`` are not read."""
    for entry in table.manifest.files:
        if entry.path not in num_bytes:
            return f"{entry.path} is missing"
        if num_bytes[entry.path] != entry.num_bytes:
            return f"{entry.path} has {num_bytes[entry.path]} bytes, not {entry.num_bytes}"
        if entry.path not in unchanged and sha256_file(table.folder / entry.path) != entry.sha256:
            return f"{entry.path} is corrupt"
    return None


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What a store's listing says of an object; ``tag`` changes with its content."""

    num_bytes: int
    tag: str | None


def listing(folder: UPath) -> dict[str, Listed]:
    """The objects below a folder of an object store, by their path relative to it."""
    start = f"{folder.path.rstrip('/')}/"
    return {
        path.removeprefix(start): Listed(num_bytes=info["size"], tag=info.get("ETag") or info.get("etag"))
        for path, info in folder.fs.find(folder.path, detail=True).items()
    }


def remove_table(folder: Location) -> None:
    """Remove a table; its manifest goes first, so that no part of it passes for a table meanwhile."""
    if isinstance(folder, Path):
        (folder / MANIFEST_NAME).unlink(missing_ok=True)
        shutil.rmtree(folder)
        return
    names = listing(folder)
    if MANIFEST_NAME in names:
        folder.fs.rm_file((folder / MANIFEST_NAME).path)
    if others := [(folder / name).path for name in names if name != MANIFEST_NAME]:
        folder.fs.rm(others)
