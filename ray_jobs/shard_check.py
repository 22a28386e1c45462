"""Integrity check of a dataset's files before training: sizes and sha256 digests, which an unchanged file keeps."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines.storage import NUM_CONCURRENT, Location, sha256_file, write_text_atomically
from pipelines.storage.roots import cache_folder
from schemas.manifest import DatasetManifest, FileEntry

# Digests by path, with what changes where a file is changed: size, time of change in nanoseconds, number of the inode.
_KNOWN_NAME = "file_digests.json"
_MAX_KNOWN = 200_000
_NOTE_BYTES = 2**30  # from so many on, a line says what is being read


def check_shards(dataset: DatasetManifest, data_root: Location, *, console: Console | None = None) -> None:
    """Check every shard, its index and the validation annotations before a cluster starts.

    On this machine their sha256 is compared, in threads (1 to 2 GB/s), and remembered for the next time; on an object store the
    size, a request each, and what is fetched from there is compared when it is.

    Raises:
        ValueError: a file is missing, is no regular file, or is not what the manifest says.
    """
    splits = dataset.supervisions.values()
    files = [entry for split in splits for entry in (*split.shards, *split.indexes)]
    files += [dataset.validation_annotations] if dataset.validation_annotations else []
    with ThreadPoolExecutor(NUM_CONCURRENT) as pool:
        sized = pool.map(lambda entry: _size_problem(data_root / entry.path, entry.num_bytes), files)
        _raise_first(sized)
    if not isinstance(data_root, Path):
        return
    known = _known()
    due = [
        entry for entry in files if known.get(str(_path(data_root, entry))) != [*_state(data_root, entry), entry.sha256]
    ]
    num_bytes = sum(entry.num_bytes for entry in due)
    if console is not None and num_bytes >= _NOTE_BYTES:
        console.print(
            f"check      reading {len(due):,} files of the dataset ({num_bytes / 2**30:.1f} GiB)", highlight=False
        )
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        _raise_first(pool.map(lambda entry: _digest_problem(data_root, entry), due))
    if due:
        _remember(known | {str(_path(data_root, entry)): [*_state(data_root, entry), entry.sha256] for entry in due})


def _raise_first(problems: Any) -> None:
    for problem in filter(None, problems):
        raise ValueError(f"shard {problem}; build the dataset again, which makes only this shard again")


def _size_problem(path: Location, num_bytes: int) -> str | None:
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        return f"{path} is missing"
    if isinstance(path, Path) and not path.is_file():
        return f"{path} is no regular file"
    return None if found == num_bytes else f"{path} has {found} bytes, not {num_bytes}: it was cut off"


def _digest_problem(data_root: Path, entry: FileEntry) -> str | None:
    path = _path(data_root, entry)
    is_whole = sha256_file(path) == entry.sha256
    return None if is_whole else f"{path} has another content than when it was built: its sha256 differs"


def _path(data_root: Path, entry: FileEntry) -> Path:
    return (data_root / entry.path).resolve()


def _state(data_root: Path, entry: FileEntry) -> list[int]:
    found = _path(data_root, entry).stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _known() -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError):
        content = json.loads((cache_folder() / _KNOWN_NAME).read_text())
        return content if isinstance(content, dict) else {}
    return {}


def _remember(known: dict[str, Any]) -> None:
    """Keep the newest; a cache that cannot be written costs time alone."""
    with suppress(OSError):
        cache_folder().mkdir(parents=True, exist_ok=True)
        write_text_atomically(cache_folder() / _KNOWN_NAME, json.dumps(dict(list(known.items())[-_MAX_KNOWN:])))
