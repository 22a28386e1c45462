"""Output folders: whether something can be written there, before the work that is to be written."""

import os
import tempfile
from pathlib import Path

from pipelines.storage import Location


def check_folder(folder: Location, *, option: str) -> None:
    """Make a folder, and write a file there to see that it can be.

    Raises:
        ValueError: it is a file, or nothing can be written there.
    """
    try:
        if isinstance(folder, Path):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable-"):
                pass
        else:
            probe = folder / f".writable-{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()
    except Exception as error:  # the clients of object stores share no base class of their errors
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"{option} {folder}: nothing can be written there ({reason}); name another folder") from error


def check_file(path: Path, *, option: str) -> None:
    """Make the folder of a file that is still to be written.

    Raises:
        ValueError: the file is a folder, or nothing can be written there.
    """
    if path.is_dir():
        raise ValueError(f"{option} {path}: a folder; name a file in it, such as {path / 'detections.json'}")
    check_folder(path.parent, option=f"{option}:")
