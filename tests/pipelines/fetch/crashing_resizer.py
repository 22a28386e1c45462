"""Resizers that crash, in a module of its own: the decoder process imports it by its name."""

import ctypes
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pipelines.fetch.image_resizer import ImageResizer
from schemas.source_images import StoredImage

CRASH = b"\xff\xfe\x00\x08poison"  # a JPEG comment


@dataclass(frozen=True, kw_only=True)
class CrashingResizer:
    """A resizer that crashes on some images: by a signal, by a null pointer, by exiting, by never returning with or without the
    interpreter's lock, or by asking for more memory than it may have."""

    way: str = "kill"
    crashes: Path | None = None  # counts them
    num_crashes: int = 1_000_000  # after which such an image is decoded

    def __call__(self, content: bytes) -> StoredImage:
        if b"poison" in content and self._count() <= self.num_crashes:
            self._crash()
        return ImageResizer(image_size_px=40, encode_quality=95, max_pixels=10**6)(content)

    def _count(self) -> int:
        if self.crashes is None:
            return 1
        with self.crashes.open("ab") as file:
            file.write(b"x")
            return file.tell()

    def _crash(self) -> None:
        if self.way == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.way == "null pointer":
            ctypes.string_at(0)
        elif self.way == "exit":
            os._exit(3)
        elif self.way == "memory":
            bytearray(6 << 30)
        elif self.way == "keep the lock":
            ctypes.PyDLL(None).sleep(3600)  # PyDLL, unlike CDLL, keeps the interpreter's lock
        time.sleep(3600)


class UnstartableResizer(CrashingResizer):
    """A resizer that ends the process which unpickles it."""

    def __reduce__(self) -> tuple[Callable[[int], NoReturn], tuple[int]]:
        return os._exit, (7,)
