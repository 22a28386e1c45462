"""File paths that come from data: whether they stay in a folder, and files that are regular before they are read."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from upath import UPath

MAX_NAME_BYTES = 255  # of one part of a path, on the file systems in use


def absolute(path: Path) -> Path:
    """The path from the root, links followed as far as they lead anywhere: a loop of them stays, and is no file."""
    return Path(os.path.realpath(path))


def is_inside(path: Path, folders: Iterable[Path]) -> bool:
    """Whether a path, every link followed, is one of the folders or below one; a path that cannot be resolved is in none."""
    try:
        resolved = path.resolve()
        return any(resolved.is_relative_to(folder.resolve()) for folder in folders)
    except (OSError, ValueError, RuntimeError):  # a name too long, a NUL character, a loop of links
        return False


def is_regular(path: Path | UPath) -> bool:
    """Whether there is a regular file, or a link to one: no folder, no device, no pipe, which could block a reader for ever."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether there is a folder, or a link to one."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read its bytes.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no regular file, or the path has a NUL character.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path} is not a regular file but a {_kind(path)}: name a file")
    return open(path, "rb", opener=_without_waiting)  # between the two calls it may have become a pipe


def read_regular(path: Path) -> bytes:
    """The bytes of a file; errors are those of `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def too_long(path: str) -> bool:
    """Whether a part of a path is longer than a file system allows."""
    return any(len(part.encode(errors="surrogatepass")) > MAX_NAME_BYTES for part in path.split("/"))


def _kind(path: Path) -> str:
    mode = path.stat().st_mode
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
