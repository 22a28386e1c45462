"""Data root: a local folder, or a prefix of an object store that fsspec knows (``s3://bucket/prefix``, ``gs://...``).

Jobs always write into a local folder; publishing moves it to its final name, or uploads it with the manifest last.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from platformdirs import user_cache_path
from pydantic import PlainSerializer, PlainValidator
from upath import UPath

TEMPORARY = ".tmp-"
SPOOL = ".spool-"  # what a job has so far, of the table whose name follows
Location = Path | UPath  # a Path is on this machine, where renaming is atomic; both have the methods of ``pathlib``


def data_root(location: str | Location) -> Location:
    """A data root from its path or URL; a local path comes back absolute, since workers have working directories of their own.

    Raises:
        ValueError: there is no client for URLs of this kind.
    """
    try:
        path = _parsed(location)
        if isinstance(path, Path):
            if scheme := re.match(
                r"([A-Za-z][A-Za-z0-9+.-]+):/", str(path)
            ):  # what a command line makes of a URL of no known kind
                raise ValueError(f"no client for {scheme[1]}:// is known")
            return path.resolve()
        remote = UPath(path, use_listings_cache=False)  # other machines write here too
        _ = remote.fs  # makes the client, which may not be installed
    except (ImportError, ValueError) as error:
        raise ValueError(f"{location}: {error}; s3:// needs the package s3fs, gs:// gcsfs, az:// adlfs") from error
    return remote


def _parsed(value: str | Location) -> Location:
    path = value if isinstance(value, Path) else UPath(value)
    return Path(path) if isinstance(path, Path) else path


# A field of a configuration: parsed from a command line by tyro, and from and to JSON by pydantic.
DataRoot = Annotated[UPath | Path, PlainValidator(_parsed), PlainSerializer(str)]


def cache_folder() -> Path:
    """Copies of remote files and unpublished work: ``DETCLIPV2_CACHE``, else the user's cache folder (``~/.cache/detclipv2``)."""
    given = os.environ.get("DETCLIPV2_CACHE")
    return Path(given) if given else user_cache_path("detclipv2", appauthor=False)


def local_folder(root: Location, name: str) -> Path:
    """A folder for what only this machine needs, such as a log: below a local root, else below the cache folder."""
    return Path(root) / name if isinstance(root, Path) else cache_folder() / name


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, which then replaces it: readers see the old or the new file; on an error the old one."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomically(path: Location, text: str) -> None:
    """Replace a small file, in UTF-8, so that a reader sees the old or the new text."""
    if not isinstance(path, Path):
        path.write_text(text, encoding="utf-8")  # an object appears whole or not at all
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256_file(path: Location) -> str:
    """Hex sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # fsspec's files have readinto
