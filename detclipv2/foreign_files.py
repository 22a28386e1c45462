"""Reading of small files that others may have written: a regular file of a bounded size, and JSON of bounded depth."""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

MAX_JSON_BYTES = 256 * 2**20


def check_regular(path: Path) -> int:
    """Size of a regular file in bytes.

    Raises:
        ValueError: it is a folder, a pipe, a device or a socket: reading one may never end.
        OSError: it is not there, or cannot be asked for.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path} is no regular file: {_kind(found.st_mode)}")
    return found.st_size


@contextmanager
def opened_regular(path: str | Path) -> Iterator[tuple[BinaryIO, int]]:
    """A regular file, open to be read, and its size in bytes.

    Raises:
        ValueError: it is no regular file.
        OSError: it cannot be opened.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        found = os.fstat(file.fileno())  # what was opened is what is looked at
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"it is no regular file: {_kind(found.st_mode)}")
        yield file, found.st_size


def read_bounded(path: Path, *, max_bytes: int) -> bytes:
    """Content of a regular file.

    Raises:
        ValueError: it is no regular file, or larger.
        OSError: it cannot be read.
    """
    with opened_regular(path) as (file, _):
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"it has more than {max_bytes:,} bytes")
    return content


def parse_json(content: bytes | str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is none, or nested too deeply.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def check_text(text: str) -> None:
    """Raise ValueError for a text with half a character (a lone surrogate), which no tokenizer and no file takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{text[:40]!r} has half a character (a lone surrogate)") from error


def _open_at_once(path: str, flags: int) -> int:
    """Without waiting for the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")
