"""File cache: copies of remote files on this machine, by the sha256 of their content, each fetched once."""

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.storage.roots import TEMPORARY, Location, cache_folder, sha256_file

# Beyond it the copies that were not used for longest go, but none of the last hour, which a job may be reading.
MAX_CACHE_BYTES = 64 * 2**30
MIN_AGE_S = 3600.0
ABANDONED_S = 24 * 3600.0
_fetched_since_scan = MAX_CACHE_BYTES  # bytes; so many that a process scans after its first fetch


@dataclass(frozen=True, kw_only=True)
class CachedFile:
    """A copy, or a leftover of a fetch that was cut off: its folder, its size and when it was last used (Unix time)."""

    folder: Path
    num_bytes: int
    used_s: float


def fetch(source: Location, *, sha256: str) -> Path:
    """The file on this machine: itself where it is local, else its copy, fetched and compared with its sha256 once.

    Raises:
        ValueError: the remote file has another content.
        FileNotFoundError: there is none.
    """
    if isinstance(source, Path):
        return source
    files = cache_folder() / "files"
    target = files / sha256 / source.name
    if target.is_file():
        os.utime(target)
        return target
    temporary = files / f"{TEMPORARY}{uuid.uuid4().hex}"
    try:
        temporary.mkdir(parents=True)
        source.fs.get_file(source.path, str(temporary / source.name))
        if sha256_file(temporary / source.name) != sha256:
            raise ValueError(f"{source} is not what its manifest says: build the dataset again, which makes it anew")
        with contextlib.suppress(OSError):  # another process was first
            temporary.rename(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _remove_old_copies(target.stat().st_size)
    return target


def _remove_old_copies(num_bytes: int) -> None:
    """Remove old copies now and then: a scan of thousands after every small file would take longer than fetching it."""
    global _fetched_since_scan
    _fetched_since_scan += num_bytes
    if _fetched_since_scan >= MAX_CACHE_BYTES // 64:
        _fetched_since_scan = 0
        remove_oldest(max_bytes=MAX_CACHE_BYTES)


def cached_files() -> list[CachedFile]:
    """All copies, the one that was used last at the end."""
    return sorted(_scan(cache_folder() / "files"), key=lambda file: file.used_s)


def unused_bytes(*, min_age_s: float = MIN_AGE_S) -> int:
    """Bytes of the copies that were not used for so long."""
    return sum(file.num_bytes for file in cached_files() if time.time() - file.used_s >= min_age_s)


def remove_oldest(*, max_bytes: int, min_age_s: float = MIN_AGE_S) -> int:
    """Remove copies, those unused for longest first, until the others fit; return the bytes removed."""
    files = cached_files()
    total = kept = sum(file.num_bytes for file in files)
    for file in files:
        if kept <= max_bytes or time.time() - file.used_s < min_age_s:
            break
        shutil.rmtree(file.folder, ignore_errors=True)
        kept -= file.num_bytes
    return total - kept


def abandoned_work() -> list[CachedFile]:
    """Folders of jobs that were killed before they could publish: nothing in them was written for a day."""
    return [work for work in _scan(scratch_folder()) if time.time() - work.used_s >= ABANDONED_S]


def scratch_folder() -> Path:
    """Where jobs write what is then uploaded."""
    return cache_folder() / "scratch"


def _scan(parent: Path) -> Iterator[CachedFile]:
    for folder in parent.glob("*"):
        with contextlib.suppress(FileNotFoundError):  # another process removes too
            stats = [path.stat() for path in folder.rglob("*") if path.is_file()] or [folder.stat()]
            num_bytes = sum(stat.st_size for stat in stats)
            yield CachedFile(folder=folder, num_bytes=num_bytes, used_s=max(stat.st_mtime for stat in stats))
