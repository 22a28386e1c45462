"""Decoder process: an image that crashes its decoder costs its own row and no other.

Some images at a time are at the process, so that it always has a next one, and they are decoded in their order. When the
process dies, the oldest unanswered image is retried first in a new one, since the crash may have had another cause; a second
crash quarantines it. Images stay in the parent until they are answered, so that nothing is fetched twice.

All images of strangers are decoded here: those of the web, of mirrors, beside captions, and with boxes.
"""

import atexit
import contextlib
import json
import os
import pickle
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import Any, TypeVar

from detclipv2.image_decoding import ImageDecodingError
from pipelines.fetch.drop_reasons import ImageError
from schemas.source_images import Resizer, StoredImage

# Of one image, in one process. The largest allowed take a few seconds.
IMAGE_LIMIT_S = 60.0
_START_LIMIT_S = 120.0
_MAX_CRASHES = 2
# Images at the process at once, the one at work included.
_NUM_IN_FLIGHT = 4
_BUFFER_BYTES = 1 << 20
# Rows whose image, or reason, waits for that of an earlier one.
_NUM_WAITING = 64
_MESSAGE_LIMIT_BYTES = (1 << 30) + (1 << 20)
# Of the process, beyond what it has when it is ready. The largest allowed images take 2 GiB.
_MEMORY_LIMIT_BYTES = 4 << 30
_LENGTHS = struct.Struct(">II")
# glibc would give the memory of every image back and ask for it again, a fifth of the time of decoding.
_KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(64 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}


Item = TypeVar("Item")


@dataclass(kw_only=True)
class Decoding:
    """An image that was submitted to a `DecoderProcess`.

    Attributes:
        content: as fetched; empty as soon as there is a result.
        result: the image to be stored, or why there is none: what the resizer raised, or ``quarantined`` where the image
            crashes its process. None: not known yet, see `DecoderProcess.finish`.
        crashes: how the process ended each time that this image was the oldest unanswered one.
    """

    content: bytes
    result: StoredImage | ImageError | None = None
    crashes: list[str] = field(default_factory=list)


class DecoderProcess:
    """A resizer in another process, which is started when first needed and again after a crash.

    Attributes:
        error: why no process could be started, or None.
    """

    def __init__(self, resizer: Resizer, *, limit_s: float = IMAGE_LIMIT_S) -> None:
        self.resizer = resizer
        self.error: Exception | None = None
        self._limit_s = limit_s
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: _Channel | None = None
        self._is_ready = False
        self._in_flight: deque[Decoding] = deque()

    def submit(self, content: bytes) -> Decoding:
        """Hand over an image; waits while the process has enough to do.

        Raises:
            RuntimeError: the process does not start.
        """
        while len(self._in_flight) >= _NUM_IN_FLIGHT:
            self._finish_first()
        channel, decoding = self.wait_until_ready(), Decoding(content=content)
        self._in_flight.append(decoding)
        self._send(channel, decoding)
        return decoding

    def finish(self, decoding: Decoding) -> StoredImage | ImageError:
        """Wait for the result.

        Raises:
            RuntimeError: the process does not start again.
        """
        while decoding.result is None:
            self._finish_first()
        return decoding.result

    def resize_all(self, items: Iterable[tuple[Item, bytes | str]]) -> Iterator[tuple[Item, StoredImage | str]]:
        """The items in their order, each with its image or the reason why there is none.

        Each comes with its content, or a reason that is passed on. Content that equals the one before is decoded once. Some
        images are at the process at a time while the caller is at others.

        Raises:
            RuntimeError: the process does not start.
        """
        waiting: deque[tuple[Item, Decoding | str]] = deque()
        before: tuple[bytes, Decoding] | None = None

        def first() -> tuple[Item, StoredImage | str]:
            item, decoding = waiting.popleft()
            if isinstance(decoding, str):
                return item, decoding
            image = self.finish(decoding)
            return item, image.slug if isinstance(image, ImageError) else image

        for item, content in items:
            if isinstance(content, str):
                waiting.append((item, content))
            else:
                if before is None or before[0] != content:
                    before = content, self.submit(content)
                waiting.append((item, before[1]))
            while waiting and (len(waiting) > _NUM_WAITING or _is_known(waiting[0][1])):
                yield first()
        while waiting:
            yield first()

    def _finish_first(self) -> None:
        """Wait for the next answer, or for the end of the process."""
        first = self._in_flight[0]
        channel = self.wait_until_ready()
        try:
            answer, jpeg = channel.receive(self._limit_s)
        except (EOFError, OSError) as error:
            first.crashes.append(self._end_of_process(error))
            if len(first.crashes) < _MAX_CRASHES:
                return
            answer, jpeg = {"error": ("quarantined", f"its decoder {', then '.join(first.crashes)}")}, b""
        self._in_flight.popleft()
        first.result = ImageError(*answer["error"]) if "error" in answer else StoredImage(jpeg=jpeg, **answer)
        first.content = b""

    def _send(self, channel: "_Channel", decoding: Decoding) -> None:
        # A crash shows where answers are awaited, some of which may still be unread.
        try:
            channel.send(decoding.content, limit_s=self._limit_s)
        except TimeoutError:
            assert self._process is not None
            self._process.kill()
        except OSError:
            pass

    @property
    def pid(self) -> int | None:
        """Of the process, if it was started."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process unless it runs, without waiting for it."""
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):  # room for a whole image, so that neither end waits for the other to take it
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        with theirs:
            code = "import sys; from pipelines.fetch.decoder import serve; serve(int(sys.argv[1]))"
            paths = filter(None, [str(Path(__file__).resolve().parents[2]), *sys.path])
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **_KEEP_MEMORY, "PYTHONPATH": os.pathsep.join(paths)},
            )
        self._channel = _Channel(ours)
        self._channel.send(pickle.dumps(self.resizer))

    def wait_until_ready(self) -> "_Channel":
        """Start the process where it does not run, and wait for it; a new one is given what the last one has not answered.

        Raises:
            RuntimeError: it does not start; nor will it be tried again.
        """
        if self.error is not None:
            raise self.error
        if not self._is_ready:
            self.start()
            assert self._channel is not None
            try:
                self._channel.receive(_START_LIMIT_S)
            except (EOFError, OSError) as error:
                self.error = RuntimeError(f"the decoding process does not start: it {self._end_of_process(error)}")
                raise self.error from error
            self._is_ready = True
            for decoding in self._in_flight:
                self._send(self._channel, decoding)
        assert self._channel is not None
        return self._channel

    def close(self) -> None:
        """End the process."""
        self._is_ready = False
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _end_of_process(self, error: Exception) -> str:
        assert self._process is not None
        if isinstance(error, TimeoutError):
            self.close()
            return f"was at work for {self._limit_s:.0f} s"
        status = self._process.wait()
        self.close()
        return f"died of {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def _is_known(decoding: Decoding | str) -> bool:
    return isinstance(decoding, str) or decoding.result is not None


class _Channel:
    """Messages of a JSON value and some bytes over a socket; the process sends no pickle: an image may have taken it over."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = sock.makefile("rb")

    def send(self, content: bytes, value: Any = None, *, limit_s: float | None = None) -> None:
        """Raises an OSError when the other end is gone, TimeoutError when it does not take the message in time."""
        header = json.dumps(value).encode()
        self._sock.settimeout(limit_s)
        self._sock.sendall(_LENGTHS.pack(len(header), len(content)) + header)
        self._sock.sendall(content)

    def receive(self, limit_s: float | None = None) -> tuple[Any, bytes]:
        """The next message; raises EOFError when the other end is gone, TimeoutError when it is silent for too long."""
        self._sock.settimeout(limit_s)
        header_length, length = _LENGTHS.unpack(self._read(_LENGTHS.size))
        if header_length + length > _MESSAGE_LIMIT_BYTES:
            raise OSError(f"a message of {header_length + length} bytes")
        return json.loads(self._read(header_length)), self._read(length)

    def close(self) -> None:
        self._reader.close()
        self._sock.close()

    def _read(self, length: int) -> bytes:
        content = self._reader.read(length)
        if len(content) < length:
            raise EOFError
        return content


_shared: DecoderProcess | None = None


def decoder_for(resizer: Resizer) -> DecoderProcess:
    """The decoding process of this process, which starts in a second; kept for later shards whose ``resizer`` is equal."""
    global _shared
    if _shared is None or _shared.resizer != resizer or _shared.error is not None:
        close_decoder()
        _shared = DecoderProcess(resizer)
    _shared.start()
    return _shared


def resize_all(resizer: Resizer, items: Iterable[tuple[Item, bytes | str]]) -> Iterator[tuple[Item, StoredImage | str]]:
    """`DecoderProcess.resize_all` of the decoding process of this process."""
    return decoder_for(resizer).resize_all(items)


@atexit.register
def close_decoder() -> None:
    """End the decoding process of this process, if there is one."""
    global _shared
    if _shared is not None:
        _shared.close()
        _shared = None


def serve(fd: int) -> None:
    """Decode for the parent until it is gone; runs as the main function of the decoding process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    warnings.simplefilter("ignore")  # Pillow's, on images that are somewhat broken
    with contextlib.suppress(OSError):  # where memory runs out, this process is killed before one that has a shard
        Path("/proc/self/oom_score_adj").write_text("1000")
    channel = _Channel(socket.socket(fileno=fd))
    resizer: Resizer = pickle.loads(channel.receive()[1])
    _limit_memory()
    channel.send(b"", "ready")
    contents: Queue[bytes | None] = Queue(_NUM_IN_FLIGHT)

    def receive_all() -> None:
        """Take what the parent sends, also while an image is at work or its answer waits to be taken; None at the end."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                contents.put(channel.receive()[1])
        contents.put(None)

    threading.Thread(target=receive_all, daemon=True).start()
    with contextlib.suppress(ConnectionError):  # the parent is gone
        while (content := contents.get()) is not None:
            try:
                image = resizer(content)
            except ImageError as error:
                channel.send(b"", {"error": (error.slug, error.detail)})
            except ImageDecodingError as error:
                channel.send(b"", {"error": (error.reason, str(error))})
            except MemoryError:
                channel.send(b"", {"error": ("too_much_memory", "")})
            else:
                channel.send(image.jpeg, image.columns)


def _limit_memory() -> None:
    """Whatever an image makes a library ask for beyond this is refused: an error, or a crash, that costs the image alone."""
    with contextlib.suppress(OSError, ValueError):  # where there is no such file, or no such limit
        num_pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = num_pages * resource.getpagesize() + _MEMORY_LIMIT_BYTES
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
