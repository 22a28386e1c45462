"""What a download has so far, on disk: a process that is killed loses none of it, and the next one goes on from there.

A spool is a folder. ``images`` holds images end to end, ``rows.jsonl`` a line a finished URL, written when its image's
bytes are; ``answers`` holds bodies that were fetched and still wait to be decoded. Every write reaches the system before the
next one starts, which is all that a killed process needs. Nothing is synced to the disk: what a loss of power tears off or
blanks is found by length and checksum, and fetched anew.
"""

import fcntl
import hashlib
import json
import os
import shutil
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Self

from pipelines.storage.tars import TarSample

# A worker outlives a killed build for some seconds, and its spool is taken over when it ends.
WAIT_S = 30.0
_POLL_S = 0.1
_LOCK = ".lock"


@contextmanager
def locked_spool(folder: Path, *, or_else: Path) -> Iterator[Path]:
    """Hold a spool's folder against other processes; where one keeps it for long, use another folder.

    Args:
        folder: is made where there is none.
        or_else: an empty folder.

    Yields:
        ``folder``, or ``or_else``.
    """
    deadline = time.monotonic() + WAIT_S
    while (lock := _lock(folder)) is None and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    if lock is None:
        print(f"another process has held {folder} for {WAIT_S:.0f} s: its downloads are not used", file=sys.stderr)
        yield or_else
        return
    with lock:
        yield folder


def _lock(folder: Path) -> IO[str] | None:
    """The locked file of a folder, which is made where there is none; None where another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / _LOCK).open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file.fileno()).st_ino == (folder / _LOCK).stat().st_ino:
            return file
    except (BlockingIOError, FileNotFoundError):  # the latter: its last holder has removed the folder meanwhile
        pass
    file.close()
    return None


class Spool:
    """Rows by key, and their images. One process and one thread write.

    Attributes:
        rows: the results so far; a later one of the same key replaces the earlier.
        answers: bodies that are not decoded yet.
    """

    def __init__(self, folder: Path) -> None:
        """Read what an earlier process has left in ``folder``."""
        self.rows: dict[str, dict[str, Any]] = {}
        self.answers = Answers(folder / "answers")
        self._extents: dict[str, tuple[int, int]] = {}  # key -> start, length
        self._images_path = folder / "images"
        self._rows_path = folder / "rows.jsonl"

    def __enter__(self) -> Self:
        self._images = self._images_path.open("a+b")
        self._lines = self._rows_path.open("a+b")
        self._read()
        return self

    def __exit__(self, *_: object) -> None:
        self._images.close()
        self._lines.close()

    def add(self, key: str, row: dict[str, Any], *, jpeg: bytes | None) -> None:
        """Put down a result."""
        line: dict[str, Any] = {"key": key, "row": row}
        if jpeg is not None:
            line["extent"] = (self._images.tell(), len(jpeg))
            line["crc32"] = zlib.crc32(jpeg)
            self._images.write(jpeg)
            self._images.flush()
        self._lines.write(json.dumps(line).encode() + b"\n")
        self._lines.flush()
        self._put(line)

    def forget(self, reasons: Set[str]) -> None:
        """Take back the rows that were dropped for one of ``reasons``, which then have no result."""
        self.rows = {key: row for key, row in self.rows.items() if row.get("drop_reason") not in reasons}

    def samples(self) -> Iterator[TarSample]:
        """The images, sorted by key."""
        for key, extent in sorted(self._extents.items()):
            yield TarSample(key=key, members={"jpg": self._image(*extent)})
        self._images.seek(0, os.SEEK_END)

    def _read(self) -> None:
        """Take in all lines up to the first that is not whole, and cut off what comes after."""
        lines_end = images_end = 0
        self._lines.seek(0)
        for text in self._lines:
            try:
                line = json.loads(text)
            except ValueError:
                break
            extent = line.get("extent")
            if not text.endswith(b"\n") or (extent and zlib.crc32(self._image(*extent)) != line["crc32"]):
                break
            self._put(line)
            lines_end += len(text)
            images_end = sum(extent) if extent else images_end
        for file, end in ((self._lines, lines_end), (self._images, images_end)):
            file.truncate(end)
            file.seek(0, os.SEEK_END)

    def _put(self, line: dict[str, Any]) -> None:
        self.rows[line["key"]] = line["row"]
        if "extent" in line:
            self._extents[line["key"]] = tuple(line["extent"])

    def _image(self, start: int, num_bytes: int) -> bytes:
        self._images.seek(start)
        return self._images.read(num_bytes)


class Answers:
    """Bodies on disk by URL, from the moment when they have arrived until their row is written.

    As many as the downloader fetches ahead of its decoder. A host's answer is kept before its connection is closed: what a
    host has seen taken is not asked for again.
    """

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder / "part", ignore_errors=True)
        (folder / "part").mkdir(parents=True)
        self._folder = folder
        self._left = {path.name for path in folder.iterdir()}  # by an earlier process
        self._asked = threading.local()

    def start(self, url: str) -> tuple[list[str], bytes] | None:
        """This thread is about to ask for ``url``: the X-Robots-Tag headers and the body where they are known, else None."""
        name = _name(url)
        self._asked.name = name
        if name not in self._left:
            return None
        with suppress(FileNotFoundError):
            header, _, body = (self._folder / name).read_bytes().partition(b"\n")
            length, directives = json.loads(header)
            if len(body) == length:  # else power was lost
                return directives, body
        return None

    def keep(self, directives: list[str], body: bytes) -> None:
        """What this thread has got for the URL of its last `start`."""
        name = self._asked.name
        with suppress(OSError):  # on a full disk it is not kept, and the writer of rows tells
            part = self._folder / "part" / name
            part.write_bytes(json.dumps([len(body), directives]).encode() + b"\n" + body)
            part.rename(self._folder / name)

    def drop(self, url: str) -> None:
        """The row of ``url`` is written."""
        (self._folder / _name(url)).unlink(missing_ok=True)


def _name(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:32]
