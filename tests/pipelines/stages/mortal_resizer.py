"""Resizers that die, in a module of its own: the decoding process imports it by its name."""

import ctypes
import io
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from pipelines.stages.pictures import PictureResizer, Resizer, ResizerResult

POISON = b"\xff\xfe\x00\x08poison"  # a JPEG comment


@dataclass(frozen=True, kw_only=True)
class Mortal:
    """A resizer that dies of poison in a way: by a signal, by a null pointer, by leaving, or by never coming back."""

    way: str = "kill"
    deaths: Path | None = None  # counts them
    num_deadly: int = 1_000_000  # deaths after which the poison has lost its power

    def build(self) -> Resizer:
        resize = PictureResizer(image_size_px=40, encode_quality=95, max_pixels=10**6).build()

        def decode(stream: io.BytesIO) -> ResizerResult:
            if b"poison" in stream.getvalue() and self._count() <= self.num_deadly:
                self._die()
            return resize(stream)

        return decode

    def _count(self) -> int:
        if self.deaths is None:
            return 1
        with self.deaths.open("ab") as file:
            file.write(b"x")
            return file.tell()

    def _die(self) -> None:
        if self.way == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.way == "null pointer":
            ctypes.string_at(0)
        elif self.way == "leave":
            os._exit(3)
        time.sleep(3600)


@dataclass(frozen=True, kw_only=True)
class StillBorn:
    def build(self) -> Resizer:
        os._exit(7)
