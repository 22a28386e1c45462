"""One build at a time in a stage's folder.

In a local root the system locks a file, and frees it when the holder ends, however it ends. An object store locks nothing: there
the holder owns the lease object of the highest number, which a conditional write (``If-None-Match``) gives to one build only, and
beats in it; a lease whose beat stands still is overtaken by the next number. Nobody's clock is compared with another's.
"""

import fcntl
import itertools
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from upath import UPath

from pipelines.storage.roots import SPOOL, TEMPORARY, Location
from schemas.manifest import MANIFEST_NAME

LEASES = ".lease"  # a folder of the stage, on object stores
BEAT_S = 1.0
STOPPED_S = 20.0  # a lease without a beat for so long is free
_LOCK = ".lock"
_POLL_S = 0.25


@contextmanager
def locked(root: Location, stage: str, *, leftovers: Literal["sweep", "keep"] = "sweep") -> Iterator[str]:
    """Hold a stage's folder against other builds in the same data root, and sweep what a killed build left there.

    What an upload left on an object store stays until the same table is published, or ``detclip data gc`` finds it. On a store
    without conditional writes nothing is held, which a warning says: run one build at a time there.

    Args:
        root: the data root.
        stage: name of the folder.
        leftovers: whether to sweep; a dry run keeps them.

    Yields:
        The lease that `publish` asks for.

    Raises:
        ValueError: the data root cannot be written.
    """
    folder = root / stage
    with _flock(folder, leftovers) if isinstance(folder, Path) else _leased(folder) as lease:
        yield lease


class Hold:
    """What a worker knows of the build that it works for: its lease, and whether it still runs."""

    def __init__(self, root: Location, stage: str, *, shard: str, lease: str) -> None:
        self._folder = root / stage
        self._lease = lease
        self._error = f"{stage} {shard}: the build that wanted this table has ended"
        self._beat = ""

    def check(self) -> None:
        """Raise RuntimeError where another build has the folder, or (seen at once in a local root alone) this one has ended."""
        if isinstance(self._folder, Path):
            is_held = _is_locked_by(self._folder, self._lease)
        else:
            held = _newest(self._folder)
            is_held = held is not None and held.lease == self._lease
            self._beat = held.text if held else ""
        if not is_held:
            raise RuntimeError(self._error)

    def wait_for_beat(self) -> None:
        """Wait for a beat that is younger than the last `check`; raise RuntimeError where none comes: the build was killed."""
        before, since = self._beat, time.monotonic()
        while self._beat == before:
            if time.monotonic() - since > STOPPED_S:
                raise RuntimeError(self._error)
            time.sleep(_POLL_S)
            self.check()


@contextmanager
def _flock(folder: Path, leftovers: str) -> Iterator[str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / _LOCK).open("a+")
    except OSError as error:
        raise ValueError(f"cannot write in the data root: {error.filename}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _tell_waiting(folder)
            fcntl.flock(file, fcntl.LOCK_EX)
        for leftover in folder.glob(f"{TEMPORARY}*") if leftovers == "sweep" else ():
            shutil.rmtree(leftover, ignore_errors=True)
        for spool in folder.glob(f"{SPOOL}*") if leftovers == "sweep" else ():
            if (
                folder / spool.name.removeprefix(SPOOL) / MANIFEST_NAME
            ).is_file():  # killed between publishing and removing
                shutil.rmtree(spool, ignore_errors=True)
        lease = uuid.uuid4().hex
        file.truncate(0)
        file.write(lease)
        file.flush()
        yield lease


def _is_locked_by(folder: Path, lease: str) -> bool:
    """Whether the build that got this lease still runs: the file is locked, and by that build."""
    with (folder / _LOCK).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read() == lease
        return False


@dataclass(frozen=True, kw_only=True)
class _Held:
    """A lease object: its number, and its text ``<lease> <beat>``."""

    number: int
    text: str

    @property
    def lease(self) -> str:
        return self.text.partition(" ")[0]


@contextmanager
def _leased(folder: UPath) -> Iterator[str]:
    lease = uuid.uuid4().hex
    try:
        number = _acquire(folder, lease)
    except Exception as error:  # every store's client has errors of its own
        raise ValueError(f"cannot write in the data root: {folder}: {type(error).__name__}: {error}") from error
    done = threading.Event()
    beating = threading.Thread(target=_beat, args=(folder, number, lease, done), daemon=True)
    beating.start()
    try:
        yield lease
    finally:
        done.set()
        beating.join()
        held = _newest(folder)
        if held is not None and held.lease == lease:
            folder.fs.rm_file(_lease_path(folder, number).path)


def _acquire(folder: UPath, lease: str) -> int:
    """Wait until nobody holds the folder; return the number of the lease that is ours."""
    seen: _Held | None = None
    since = time.monotonic()
    is_told = False
    while True:
        held = _newest(folder)
        if held != seen:
            seen, since = held, time.monotonic()
        if held is None or time.monotonic() - since > STOPPED_S:
            number = held.number + 1 if held else 1
            if _create(_lease_path(folder, number), f"{lease} 0"):
                for older in range(1, number):
                    with suppress(FileNotFoundError):
                        folder.fs.rm_file(_lease_path(folder, older).path)
                return number
            continue
        if not is_told:
            _tell_waiting(folder)
            is_told = True
        time.sleep(_POLL_S)


def _beat(folder: UPath, number: int, lease: str, done: threading.Event) -> None:
    """Rewrite the lease object until done, or until another build has overtaken it."""
    for count in itertools.count(1):
        if done.wait(BEAT_S):
            return
        with suppress(Exception):  # the store may fail for a moment; workers stop when no beat comes for long
            held = _newest(folder)
            if held is None or held.lease != lease:
                return
            _lease_path(folder, number).write_text(f"{lease} {count}")


def _newest(folder: UPath) -> _Held | None:
    """The lease object of the highest number."""
    try:
        numbers = [int(path.rsplit("/", 1)[-1]) for path in folder.fs.ls((folder / LEASES).path, detail=False)]
        number = max(numbers)
        return _Held(number=number, text=folder.fs.cat_file(_lease_path(folder, number).path).decode())
    except (FileNotFoundError, ValueError):  # none, or it went meanwhile
        return None


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


def _tell_waiting(folder: Location) -> None:
    print(f"waiting for another build that works on {folder}", file=sys.stderr)
