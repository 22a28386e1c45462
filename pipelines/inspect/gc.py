"""Garbage collection of a data root: tables that no dataset refers to, and leftovers of killed builds."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from pipelines.storage import Location, locked, table_name
from pipelines.storage.dataset_tables import DATASETS, indexed_tables
from pipelines.storage.roots import SPOOL, TEMPORARY
from pipelines.storage.table_store import listing, remove_table
from schemas.manifest import MANIFEST_NAME, DatasetManifest, first_error
from schemas.paths import is_inside, is_regular

_TABLE = re.compile(rf"[0-9a-f]{{16}}$|{re.escape(TEMPORARY)}|{re.escape(SPOOL)}")


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """A folder that may go."""

    folder: Location
    num_bytes: int
    why: str


def referenced_tables(root: Location) -> set[str]:
    """``<stage>/<fingerprint[:16]>`` of all that a dataset has now, that an unfinished build makes, or that a manifest names.

    Manifests are those of today and the older ones.

    Raises:
        ValueError: a file below ``datasets/`` cannot be understood; nothing can be called garbage then.
    """
    names = set()
    for asset, fingerprints in indexed_tables(root):
        names |= {table_name(asset, fingerprint) for fingerprint in fingerprints.values()}
    for path in (root / DATASETS).glob("*/*.json"):
        try:
            if not is_regular(path):
                raise ValueError("it is no regular file")
            manifest = DatasetManifest.model_validate_json(path.read_bytes())
        except ValueError as error:
            why = first_error(error) if isinstance(error, ValidationError) else error
            raise ValueError(f"{path} is no dataset manifest: move it elsewhere first; {why}") from error
        files = [entry for split in manifest.supervisions.values() for entry in (*split.shards, *split.indexes)]
        if manifest.validation_annotations is not None:
            files.append(manifest.validation_annotations)
        names |= {"/".join(file.path.split("/")[:2]) for file in files}
    return names


def collect(root: Location, *, delete: bool) -> list[Garbage]:
    """Find what may go, and remove it where ``delete`` says so.

    Each stage is locked against builds meanwhile, so that what a running build has just made is not taken for garbage.

    Raises:
        ValueError: the data root holds no dataset, so that everything in it would be garbage.
    """
    if next(indexed_tables(root), None) is None:
        raise ValueError(f"{root} holds no dataset: is it a data root?")
    found = []
    for stage in _stages(root):
        with locked(root, stage, sweep=False):
            garbage = find_garbage(root, stage, referenced=referenced_tables(root))
            if isinstance(root, Path):  # a link may lead to what is not the data root's
                garbage = [item for item in garbage if is_inside(Path(str(item.folder)), [root])]
            for item in garbage if delete else []:
                remove_table(item.folder)
        found += garbage
    return found


def find_garbage(root: Location, stage: str, *, referenced: Iterable[str]) -> list[Garbage]:
    """What may go in a stage's folder: all but what is ``referenced``, as `referenced_tables` gives it."""
    keep = set(referenced)
    found = []
    for name, files in _tables(root / stage).items():
        is_spool = name.startswith(SPOOL)  # that of a table to come: the next build goes on from it, or sweeps it
        is_complete = MANIFEST_NAME in files and not name.startswith(TEMPORARY)
        if f"{stage}/{name.removeprefix(SPOOL)}" in keep and (is_spool or is_complete):
            continue
        why = "no dataset refers to it" if is_complete and not is_spool else "a killed build left it"
        found.append(Garbage(folder=root / stage / name, num_bytes=sum(files.values()), why=why))
    return found


def _stages(root: Location) -> list[str]:
    """Folders of the data root that hold tables, or what was to become one."""
    if isinstance(root, Path):
        names = [(path.parent.name, path.name) for path in root.glob("*/*") if path.is_dir()]
    else:
        parts = [path.split("/") for path in listing(root)]
        names = [(part[0], part[1]) for part in parts if len(part) > 2]
    return sorted({stage for stage, name in names if _TABLE.match(name)})


def _tables(folder: Location) -> dict[str, dict[str, int]]:
    """Bytes by file, by table or what was to become one."""
    if isinstance(folder, Path):
        files = {
            path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()
        }
    else:
        files = {path: listed.num_bytes for path, listed in listing(folder).items()}
    tables: dict[str, dict[str, int]] = {}
    for path, num_bytes in sorted(files.items()):
        name, _, file = path.partition("/")
        if file and _TABLE.match(name):
            tables.setdefault(name, {})[file] = num_bytes
    return tables
