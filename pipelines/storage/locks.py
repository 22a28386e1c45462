"""Build lock: one build at a time in a stage's folder, by file lock or by a lease with a heartbeat.

In a local root the system locks a file, and frees it when its process ends, however it ends. An object store locks nothing:
there a conditional write (``If-None-Match``) gives the lease object of the next number to one build only, which rewrites it as
its heartbeat; a lease whose heartbeat has stopped is overtaken by the next number. Nobody's clock is compared with another's.

A manifest written last, even conditionally, would not do without the lease. A worker that outlives its killed build must not
publish what an outage made of its downloads; a second build would remove what the first has uploaded of a table; and two
downloads of one shard differ, so that the manifest of one would name the files of the other.
"""

import fcntl
import itertools
import os
import shutil
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from upath import UPath

from pipelines.storage.roots import SPOOL, TEMPORARY, Location
from schemas.manifest import MANIFEST_NAME

LEASES = ".lease"  # a folder of the stage, on object stores
HEARTBEAT_S = 1.0
EXPIRY_S = 20.0  # a lease without a heartbeat for so long is free
_LOCK = ".lock"
_POLL_S = 0.25
_WAITING = "waiting for another build that works on {}"


def locked(root: Location, stage: str, *, sweep: bool = True) -> AbstractContextManager[str]:
    """Lock a stage's folder against other builds in the same data root, and sweep what a killed build left there.

    What an upload left on an object store stays until the same table is published, or ``detclip data gc`` finds it. On a store
    without conditional writes nothing is locked, which a warning says: run one build at a time there.

    The context gives the token of the lease, which `publish` asks for. A dry run does not ``sweep``.

    Raises:
        ValueError: the data root cannot be written.
    """
    folder = root / stage
    token = uuid.uuid4().hex
    return _flock(folder, token, sweep=sweep) if isinstance(folder, Path) else _leased(folder, token)


class HeldError(ValueError):
    """Another process holds a folder; its text says which: host and process id."""


def held(folder: Location, *, wait: bool = False) -> AbstractContextManager[str]:
    """Lock a folder of a training's, by the same means as `locked`, but end where another process holds it, unless told to wait.

    A process that was killed holds nothing: on an object store its lease is free when no heartbeat came for `EXPIRY_S`.

    Raises:
        HeldError: another process, which is alive, holds it.
        ValueError: the folder cannot be written.
    """
    token = f"{uuid.uuid4().hex}|{socket.gethostname()}|{os.getpid()}"
    busy = None if wait else _give_up
    return _flock(folder, token, busy=busy) if isinstance(folder, Path) else _leased(folder, token, busy=busy)


def _give_up(token: str) -> None:
    _, host, process = [*token.split("|"), "", ""][:3]
    raise HeldError(f"process {process} on {host}" if host else "another process")


class Lease:
    """The lease of the build that a worker works for: whether that build still runs."""

    def __init__(self, root: Location, stage: str, *, shard: str, token: str) -> None:
        self._folder = root / stage
        self._token = token
        self._error = f"{stage} {shard}: the build that wanted this table has ended"
        self._heartbeat = ""

    def check(self) -> None:
        """Raise RuntimeError where another build has the folder, or (seen at once in a local root alone) this one has ended."""
        if isinstance(self._folder, Path):
            is_ours = _is_locked_by(self._folder, self._token)
        else:
            _, self._heartbeat = _newest(self._folder)
            is_ours = self._heartbeat.startswith(self._token)
        if not is_ours:
            raise RuntimeError(self._error)

    def wait_for_heartbeat(self) -> None:
        """Wait for a heartbeat after the last `check`; raise RuntimeError where none comes: the build was killed."""
        before, since = self._heartbeat, time.monotonic()
        while self._heartbeat == before:
            if time.monotonic() - since > EXPIRY_S:
                raise RuntimeError(self._error)
            time.sleep(_POLL_S)
            self.check()


@contextmanager
def _flock(
    folder: Path, token: str, *, sweep: bool = False, busy: Callable[[str], None] | None = None
) -> Iterator[str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / _LOCK).open("a+")
    except OSError as error:
        raise ValueError(f"cannot write in the data root: {error.filename}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if busy is not None:
                file.seek(0)
                busy(file.read())
            print(_WAITING.format(folder), file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        if sweep:
            _sweep(folder)
        file.truncate(0)
        file.write(token)
        file.flush()
        yield token


def _sweep(folder: Path) -> None:
    for leftover in folder.glob(f"{TEMPORARY}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for spool in folder.glob(f"{SPOOL}*"):
        table = folder / spool.name.removeprefix(SPOOL)
        if (table / MANIFEST_NAME).is_file():  # killed between publishing and removing
            shutil.rmtree(spool, ignore_errors=True)


def _is_locked_by(folder: Path, token: str) -> bool:
    with (folder / _LOCK).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read() == token
        return False


@contextmanager
def _leased(folder: UPath, token: str, *, busy: Callable[[str], None] | None = None) -> Iterator[str]:
    try:
        number = _acquire(folder, token, busy=busy)
    except HeldError:
        raise
    except Exception as error:  # every store's client has errors of its own
        raise ValueError(f"cannot write in the data root: {folder}: {type(error).__name__}: {error}") from error
    done = threading.Event()
    heart = threading.Thread(target=_send_heartbeats, args=(folder, number, token, done), daemon=True)
    heart.start()
    try:
        yield token
    finally:
        done.set()
        heart.join()
        if _newest(folder)[1].startswith(token):
            folder.fs.rm_file(_lease_path(folder, number).path)


def _acquire(folder: UPath, token: str, *, busy: Callable[[str], None] | None) -> int:
    """Wait until the folder is free; return the number of the lease that is ours.

    ``busy`` is called, if given, with the token of a lease whose heart beats.
    """
    seen, since, is_told = (0, ""), time.monotonic(), False
    while True:
        newest = _newest(folder)
        if newest != seen:
            if busy is not None and newest[1] and newest[0] == seen[0]:
                busy(newest[1].partition(" ")[0])
            seen, since = newest, time.monotonic()
        number = newest[0] + 1
        if number == 1 or time.monotonic() - since > EXPIRY_S:
            if _create(_lease_path(folder, number), f"{token} 0"):
                for older in range(1, number):
                    with suppress(FileNotFoundError):
                        folder.fs.rm_file(_lease_path(folder, older).path)
                return number
            continue
        if not is_told:
            print(_WAITING.format(folder), file=sys.stderr)
            is_told = True
        time.sleep(_POLL_S)


def _send_heartbeats(folder: UPath, number: int, token: str, done: threading.Event) -> None:
    """Rewrite the lease object until done, or until another build has overtaken it."""
    for count in itertools.count(1):
        if done.wait(HEARTBEAT_S):
            return
        with suppress(Exception):  # the store may fail for a moment; workers stop when no heartbeat comes for long
            if not _newest(folder)[1].startswith(token):
                return
            _lease_path(folder, number).write_text(f"{token} {count}")


def _newest(folder: UPath) -> tuple[int, str]:
    """Number and text (``<token> <number of heartbeats>``) of the lease object of the highest number; 0 and "" without one."""
    try:
        number = max(int(path.rsplit("/", 1)[-1]) for path in folder.fs.ls((folder / LEASES).path, detail=False))
        return number, folder.fs.cat_file(_lease_path(folder, number).path).decode()
    except (FileNotFoundError, ValueError):  # none, or it went meanwhile
        return 0, ""


def _create(path: UPath, text: str) -> bool:
    """Write an object unless there is one; whether it was written."""
    try:
        path.fs.pipe_file(path.path, text.encode(), mode="create")
    except FileExistsError:
        return False
    except NotImplementedError:
        print(f"{path.protocol}:// has no conditional writes: run one build at a time", file=sys.stderr)
        path.write_text(text)
    return True


def _lease_path(folder: UPath, number: int) -> UPath:
    return folder / LEASES / f"{number:06d}"
