"""Checkpoint storage of a run: a folder that all nodes share, or a prefix of an object store.

Whether a checkpoint is whole is read off the checkpoint itself (`detclipv2.training.checkpoint`), never off a record beside it,
since whatever was killed may have been writing either.
"""

import glob
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs

from detclipv2.training.checkpoint import CHECKPOINT_NAME, TrainState, load_state
from pipelines.storage import HeldError, Location, held, write_text_atomically
from schemas.manifest import sha256_hex

FINISHED_NAME = "FINISHED"
RAY_RECORD_NAME = "checkpoint_manager_snapshot.json"  # Ray Train's list of a run's checkpoints
_PREFIX = "step_"


@dataclass(frozen=True, kw_only=True)
class RunStorage:
    """The checkpoints of one run, each in a folder named after its step."""

    root: Location  # absolute; of all runs
    name: str

    @property
    def folder(self) -> Location:
        """Of this run."""
        return self.root / self.name

    @contextmanager
    def locked(self, *, wait: bool = False) -> Iterator[None]:
        """Keep all other trainings of this name out, on whatever machine; what a killed one held is free.

        Raises:
            ValueError: another one is at work, unless told to wait for it.
        """
        try:
            lock = held(self.folder, wait=wait)
            with lock:
                yield
        except HeldError as error:
            raise ValueError(
                f"run {self.name} is being trained by {error}: wait until it has ended or end it, and this command goes on from"
                " its last checkpoint; or train another run, with another --name"
            ) from error

    def ray_arguments(self) -> dict[str, Any]:
        """What tells Ray Train where to write: it takes the same client as everything else that we read and write."""
        if isinstance(self.root, Path):
            return {"name": self.name, "storage_path": str(self.root)}
        filesystem = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(self.root.fs))
        return {"name": self.name, "storage_path": self.root.path, "storage_filesystem": filesystem}

    @staticmethod
    def checkpoint_name(step: int) -> str:
        """Name of the folder of a step's checkpoint; names sort as steps do."""
        return f"{_PREFIX}{step:09d}"

    def steps(self) -> list[int]:
        """Steps of which there is a checkpoint, whole or not, in ascending order."""
        if not self.folder.is_dir():
            return []
        names = (path.name for path in self.folder.iterdir())
        return sorted(int(name.removeprefix(_PREFIX)) for name in names if name.startswith(_PREFIX))

    def load(self, step: int) -> TrainState:
        """The state after a step.

        Raises:
            ValueError: its checkpoint is missing, cut off or damaged.
        """
        source = self.folder / self.checkpoint_name(step)
        if isinstance(source, Path):
            return load_state(source)
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
            try:
                source.fs.get_file((source / CHECKPOINT_NAME).path, f"{folder}/{CHECKPOINT_NAME}")
            except FileNotFoundError as error:
                raise ValueError(f"{source} has no {CHECKPOINT_NAME}") from error
            return load_state(Path(folder))

    def newest(self) -> tuple[TrainState | None, list[str]]:
        """The newest whole checkpoint, and why newer ones were passed over."""
        problems: list[str] = []
        for step in reversed(self.steps()):
            try:
                return self.load(step), problems
            except ValueError as error:
                problems.append(str(error))
        return None, problems

    def side_file(self, step: int, name: str) -> str | None:
        """Text of a small file beside a checkpoint, or None where there is none."""
        path = self.folder / self.checkpoint_name(step) / name
        return path.read_text() if path.is_file() else None

    def recover(self, *, num_to_keep: int) -> None:
        """Make a run that was killed ready to go on.

        Ray Train writes its record in place and believes it afterwards. A record that is half written, or names a
        checkpoint that is gone, would keep the run from ever starting again, and goes; training finds the checkpoints by
        itself. So do old checkpoints that no record names any more, but for the newest ``num_to_keep``.
        """
        record, recorded, is_right = self.folder / RAY_RECORD_NAME, set(), True
        try:
            recorded = {entry["checkpoint_dir_name"] for entry in json.loads(record.read_text())["checkpoint_results"]}
            is_right = all((self.folder / name).is_dir() for name in recorded)
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError):
            is_right = False
        if not is_right:
            record.unlink(missing_ok=True)
            recorded = set()
        for name in {self.checkpoint_name(step) for step in self.steps()[:-num_to_keep]} - recorded:
            folder = self.folder / name
            if isinstance(folder, Path):
                shutil.rmtree(folder)
            else:
                folder.fs.rm(folder.path, recursive=True)

    def remove_leftovers(self) -> None:
        """Remove what killed workers of this run have left in this machine's folder for temporary files."""
        for leftover in Path(tempfile.gettempdir()).glob(f"{glob.escape(self._temporary)}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def temporary_folder(self) -> Path:
        """A new folder on this machine for a checkpoint that is still to be uploaded."""
        return Path(tempfile.mkdtemp(prefix=self._temporary))

    @property
    def _temporary(self) -> str:
        return f"checkpoint-{sha256_hex(str(self.folder))[:16]}-"

    def finish(self, step: int) -> None:
        """Note that the run has come to its end with the checkpoint of ``step``."""
        write_text_atomically(self.folder / FINISHED_NAME, f"{step}\n")

    def finished_step(self) -> int | None:
        """The last step of a run that has come to its end, else None."""
        path = self.folder / FINISHED_NAME
        try:
            return int(path.read_text()) if path.is_file() else None
        except ValueError as error:
            raise ValueError(
                f"{path} is damaged ({error}): remove it, and training goes on from the last checkpoint"
            ) from error
