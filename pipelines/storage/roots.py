"""Where data lies: a path on this machine, or a URL of an object store that is used like one."""

import hashlib
import os
from pathlib import Path
from typing import Annotated

from platformdirs import user_cache_path
from pydantic import PlainSerializer, PlainValidator
from upath import UPath

TEMPORARY = ".tmp-"
SPOOL = ".spool-"  # what a job has so far, of the table whose name follows
_CHUNK_BYTES = 4 * 2**20

# What is read and written below a data root. Both have the methods of ``pathlib``.
Location = Path | UPath


def data_root(location: str | Location) -> Location:
    """A data root from its path or URL; a local path comes back absolute, since workers have working directories of their own.

    Raises:
        ValueError: there is no client for URLs of this kind.
    """
    try:
        path = _parsed(location)
        if isinstance(path, Path):
            return path.resolve()
        # Without the client's cache of listings: other machines write here too.
        remote = UPath(path, use_listings_cache=False)
        _ = remote.fs  # makes the client, which may not be installed
    except (ImportError, ValueError) as error:
        raise ValueError(f"{location}: {error}; s3:// needs the package s3fs, gs:// gcsfs, az:// adlfs") from error
    return remote


def _parsed(value: str | Location) -> Location:
    """A location as it was given."""
    path = value if isinstance(value, Path) else UPath(value)
    return Path(path) if isinstance(path, Path) else path


# A field of a configuration: parsed from a command line by tyro, and from and to JSON by pydantic.
DataRoot = Annotated[UPath | Path, PlainValidator(_parsed), PlainSerializer(str)]


def is_local(location: Location) -> bool:
    """Whether it lies in a file system of this machine, where renaming is atomic."""
    return isinstance(location, Path)


def cache_folder() -> Path:
    """Where this machine keeps copies of remote files, and where it works: ``DETCLIPV2_CACHE``, else the user's cache folder.

    `detclipv2.cli` has the same rule; neither package may import the other.
    """
    given = os.environ.get("DETCLIPV2_CACHE")
    return Path(given) if given else user_cache_path("detclipv2", appauthor=False)


def local_folder(root: Location, name: str) -> Path:
    """A folder for what only this machine needs, such as a log: below a local root, else below the cache folder."""
    return Path(root) / name if isinstance(root, Path) else cache_folder() / name


def write_text_atomically(path: Location, text: str) -> None:
    """Replace a small file so that a reader sees the old or the new text."""
    if not isinstance(path, Path):
        path.write_text(text)  # an object appears whole or not at all
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    temporary.write_text(text)
    temporary.replace(path)


def sha256_file(path: Location) -> str:
    """Hex sha256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
