"""SQLite spool of a download: a killed process loses no row that was written and no body that had arrived.

A spool is a folder with one database: rows with their JPEGs, and bodies that were fetched and still wait to be decoded. A
commit reaches the system before the next one starts, which is all that a killed process needs. Nothing is synced to the disk:
2,000 bodies of 150 kB and their rows took 5 to 6 s with ``synchronous=NORMAL`` and 2 to 3 s with ``OFF`` (in pages of 16 kB;
SQLite's usual 4 kB took 3 to 5 s). What a loss of power tears off or blanks is found by SQLite's check and by checksums, and
fetched anew.
"""

import errno
import fcntl
import functools
import json
import os
import sqlite3
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Self

from pipelines.fetch.http_client import Response

# A worker outlives a killed build for some seconds, and its spool is taken over when it ends.
WAIT_S = 30.0
DATABASE_NAME = "spool.sqlite"
_POLL_S = 0.1
_LOCK = ".lock"
# An exclusive lock needs no shared memory file; the folder's lock keeps other processes out in any case.
_SETTINGS = "PRAGMA page_size=16384; PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;"
_TABLES = """
CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY NOT NULL, row BLOB NOT NULL, jpeg BLOB, crc32 INT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS answers
(key BLOB PRIMARY KEY NOT NULL, robots_tags BLOB NOT NULL, body BLOB NOT NULL, crc32 INT NOT NULL) STRICT;
"""
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}
_DISK_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE}  # the latter: a quota, a limit on a file's size


@contextmanager
def locked_spool(folder: Path, *, or_else: Path) -> Iterator[Path]:
    """Lock a spool's folder, made if need be, against other processes; the empty ``or_else`` where one keeps it for long."""
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
    """The locked file of a folder, which is made where there is none; None where another process has the lock."""
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / _LOCK).open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file.fileno()).st_ino == (folder / _LOCK).stat().st_ino:
            return file
    except (BlockingIOError, FileNotFoundError):  # the latter: the process that had it has removed the folder meanwhile
        pass
    file.close()
    return None


class Spool:
    """Rows by key, their images, and bodies that are not decoded yet; one process writes, and any of its threads may.

    Attributes:
        rows: the results so far; a later one of the same key replaces the earlier.
    """

    def __init__(self, folder: Path) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self._path = folder / DATABASE_NAME
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """Read what an earlier process has left in the folder.

        Raises:
            OSError: the disk is full.
        """
        try:
            self._database = self._open()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter: SQLite's words about damaged tables
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF not in _DAMAGED:
                raise
            print(f"{self._path} is damaged ({error}): its downloads are fetched anew", file=sys.stderr)
            for path in self._path.parent.glob(f"{DATABASE_NAME}*"):
                path.unlink()
            self._database = self._open()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._database.close()

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, check_same_thread=False)
        try:
            with _full_disk_as_oserror():
                database.executescript(_SETTINGS + _TABLES)
            for (fault,) in database.execute("PRAGMA integrity_check(1)"):
                if fault != "ok":
                    raise sqlite3.DatabaseError(fault)
            for key, row, jpeg, crc32 in database.execute("SELECT * FROM rows ORDER BY rowid"):
                if _crc32(key, row, jpeg) == crc32:
                    self.rows[key.decode()] = json.loads(row)
        except BaseException:
            self.rows = {}
            database.close()
            raise
        return database

    def add(self, key: str, row: dict[str, Any], *, jpeg: bytes | None) -> None:
        """Write a result; the body of ``key`` is no longer kept.

        Raises:
            OSError: the disk is full.
        """
        content = json.dumps(row).encode()
        with _full_disk_as_oserror(), self._lock, self._database as database:
            values = (key.encode(), content, jpeg, _crc32(key.encode(), content, jpeg))
            database.execute("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?)", values)
            database.execute("DELETE FROM answers WHERE key = ?", (key.encode(),))
        self.rows[key] = row

    def forget(self, reasons: Set[str]) -> None:
        """Take back the rows that were dropped for one of ``reasons``, which then have no result."""
        self.rows = {key: row for key, row in self.rows.items() if row.get("drop_reason") not in reasons}

    def image(self, key: str) -> bytes | None:
        """The JPEG of a row, or None where it has none or is not among ``rows`` (it is damaged, or has been taken back)."""
        if key not in self.rows:
            return None
        with self._lock:
            found = self._database.execute("SELECT jpeg FROM rows WHERE key = ?", (key.encode(),)).fetchone()
        return None if found is None else found[0]

    def keep(self, key: str, response: Response) -> None:
        """Keep a response until the row of ``key`` is written."""
        tags, body = json.dumps(response.robots_tags).encode(), response.body
        with suppress(sqlite3.Error), self._lock, self._database as database:  # the next row tells of a full disk
            values = (key.encode(), tags, body, _crc32(key.encode(), tags, body))
            database.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", values)

    def answer(self, key: str) -> Response | None:
        """The response that was kept for ``key``, or None."""
        with self._lock:
            found = self._database.execute("SELECT * FROM answers WHERE key = ?", (key.encode(),)).fetchone()
        if found is None or _crc32(*found[:3]) != found[3]:
            return None
        return Response(body=found[2], robots_tags=tuple(json.loads(found[1])))


def _crc32(*values: bytes | None) -> int:
    return functools.reduce(lambda crc32, value: zlib.crc32(value or b"", crc32), values, 0)


@contextmanager
def _full_disk_as_oserror() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode not in _DISK_FULL:
            raise
        raise OSError(errno.ENOSPC, str(error)) from error
