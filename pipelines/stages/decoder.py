"""Decoding in a process of its own: a picture that kills a decoder costs its own row, and nobody else's.

One picture at a time crosses over, so a death needs no search: the picture inside is the suspect. It is tried once more
in a fresh process, which a death by chance survives, and quarantined when that one dies too. Fetched pictures wait in the
parent meanwhile, so that nothing is fetched twice.
"""

import atexit
import contextlib
import io
import json
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, Protocol

from pipelines.stages.pictures import Resizer, ResizerResult, phash

# Of one picture, in one process. The largest allowed take a few seconds.
PICTURE_LIMIT_S = 60.0
_START_LIMIT_S = 120.0
_NUM_DEATHS_TO_CONVICT = 2
_MESSAGE_LIMIT_BYTES = 1 << 30
_LENGTHS = struct.Struct(">II")
# glibc would give the memory of every picture back and ask for it again, a fifth of the time of decoding.
_KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(64 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
_REPOSITORY = Path(__file__).resolve().parents[2]


class ResizerSpec(Protocol):
    """What the decoding process builds its resizer from; it is pickled, and compared by ``==``."""

    def build(self) -> Resizer: ...


class DecoderProcess:
    """A ``Resizer`` that works in another process, started when first needed and again whenever it has died.

    Attributes:
        phash: of the picture that came last. img2dataset's result has no room for it, but it resizes and writes one
            picture after the other.
        error: why no process could be started, or None.
    """

    def __init__(self, spec: ResizerSpec, *, limit_s: float = PICTURE_LIMIT_S) -> None:
        self.spec = spec
        self.phash: str | None = None
        self.error: Exception | None = None
        self._limit_s = limit_s
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: _Channel | None = None
        self._is_ready = False

    def __call__(self, stream: io.BytesIO, _boxes: object = None) -> ResizerResult:
        """What the resizer returns; its error begins with ``quarantined`` where the picture kills its process."""
        causes = []
        for _ in range(_NUM_DEATHS_TO_CONVICT):
            channel = self.wait_until_ready()
            try:
                channel.send(stream.getvalue())
                answer, jpeg = channel.receive(self._limit_s)
            except (EOFError, OSError) as error:
                causes.append(self._cause_of_death(error))
                continue
            self.phash = answer["phash"]
            width, height, original_width, original_height = answer["sizes"]
            return jpeg or None, width, height, original_width, original_height, answer["error"]
        return None, None, None, None, None, f"quarantined: its decoder {', then '.join(causes)}"

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
        with theirs:
            code = "import sys; from pipelines.stages.decoder import serve; serve(int(sys.argv[1]))"
            paths = filter(None, [str(_REPOSITORY), *sys.path])
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **_KEEP_MEMORY, "PYTHONPATH": os.pathsep.join(paths)},
            )
        self._channel = _Channel(ours)
        self._channel.send(pickle.dumps(self.spec))

    def wait_until_ready(self) -> "_Channel":
        """Start the process where it does not run, and wait for it.

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
                self.error = RuntimeError(f"the decoding process does not start: it {self._cause_of_death(error)}")
                raise self.error from error
            self._is_ready = True
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

    def _cause_of_death(self, error: Exception) -> str:
        assert self._process is not None
        if isinstance(error, TimeoutError):
            self.close()
            return f"was at work for {self._limit_s:.0f} s"
        status = self._process.wait()
        self.close()
        return f"died of {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


class _Channel:
    """Messages of a JSON value and some bytes, over a socket.

    No pickle comes back this way: a process that a stranger's picture may have taken over is not trusted.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = sock.makefile("rb")

    def send(self, content: bytes, value: Any = None) -> None:
        header = json.dumps(value).encode()
        self._sock.settimeout(None)
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


def decoder_for(spec: ResizerSpec) -> DecoderProcess:
    """The decoding process of this process: it starts in a second, which not every shard needs to pay."""
    global _shared
    if _shared is None or _shared.spec != spec or _shared.error is not None:
        close_decoder()
        _shared = DecoderProcess(spec)
    _shared.start()
    return _shared


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
    warnings.simplefilter("ignore")  # Pillow's, on pictures that are somewhat broken
    with contextlib.suppress(OSError):  # where memory runs out, this process goes before one that holds a shard
        Path("/proc/self/oom_score_adj").write_text("1000")
    channel = _Channel(socket.socket(fileno=fd))
    resizer = pickle.loads(channel.receive()[1]).build()
    channel.send(b"", "ready")
    with contextlib.suppress(EOFError, ConnectionError):  # the parent is gone
        while True:
            jpeg, *sizes, error = resizer(io.BytesIO(channel.receive()[1]))
            channel.send(jpeg or b"", {"sizes": sizes, "error": error, "phash": jpeg and phash(jpeg)})
