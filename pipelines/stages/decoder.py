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
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from pipelines.stages.pictures import Resizer, ResizerResult, phash

# Of one picture, in one process. The largest allowed take a few seconds.
PICTURE_LIMIT_S = 60.0
_START_LIMIT_S = 120.0
_NUM_DEATHS_TO_CONVICT = 2
_MESSAGE_LIMIT_BYTES = 1 << 30
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
        self._connection: Connection | None = None

    def __call__(self, stream: io.BytesIO, _boxes: object = None) -> ResizerResult:
        """What the resizer returns; its error begins with ``quarantined`` where the picture kills its process."""
        causes = []
        for _ in range(_NUM_DEATHS_TO_CONVICT):
            try:
                connection = self._started()
            except Exception as error:
                self.error = error
                raise
            try:
                connection.send_bytes(stream.getbuffer())
                return self._answer(connection)
            except (EOFError, OSError) as error:
                causes.append(self._cause_of_death(error))
        return None, None, None, None, None, f"quarantined: its decoder {', then '.join(causes)}"

    def start(self) -> None:
        """Start the process, without waiting for it."""
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
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
        self._connection = Connection(ours.detach())
        self._connection.send_bytes(pickle.dumps(self.spec))
        self._is_ready = False

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _started(self) -> Connection:
        self.start()
        assert self._connection is not None
        if not self._is_ready:
            try:
                self._receive(self._connection, _START_LIMIT_S)
            except (EOFError, OSError) as error:
                raise RuntimeError(f"the decoding process does not start: it {self._cause_of_death(error)}") from error
            self._is_ready = True
        return self._connection

    def _answer(self, connection: Connection) -> ResizerResult:
        # JSON and raw bytes, no pickle: the process that a stranger's picture may have taken over is not trusted.
        answer = json.loads(self._receive(connection, self._limit_s))
        jpeg = self._receive(connection, self._limit_s) if answer["error"] is None else None
        self.phash = answer["phash"]
        width, height, original_width, original_height = answer["sizes"]
        return jpeg, width, height, original_width, original_height, answer["error"]

    @staticmethod
    def _receive(connection: Connection, limit_s: float) -> bytes:
        if not connection.poll(limit_s):
            raise TimeoutError(f"was at work for {limit_s:.0f} s")
        return connection.recv_bytes(_MESSAGE_LIMIT_BYTES)

    def _cause_of_death(self, error: Exception) -> str:
        assert self._process is not None
        if isinstance(error, TimeoutError):
            self.close()
            return str(error)
        status = self._process.wait()
        self.close()
        return f"died of {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


_shared: DecoderProcess | None = None


def decoder_for(spec: ResizerSpec) -> DecoderProcess:
    """The decoding process of this process: it starts in a second, which not every shard needs to pay."""
    global _shared
    if _shared is None or _shared.spec != spec:
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
    with contextlib.suppress(OSError):  # where memory runs out, this process goes before one that holds a shard
        Path("/proc/self/oom_score_adj").write_text("1000")
    with Connection(fd) as connection:
        resizer = pickle.loads(connection.recv_bytes()).build()
        connection.send_bytes(b"ready")
        while True:
            try:
                content = connection.recv_bytes()
            except EOFError:
                return
            jpeg, *sizes, error = resizer(io.BytesIO(content))
            answer = {"sizes": sizes, "error": error, "phash": None if jpeg is None else phash(jpeg)}
            connection.send_bytes(json.dumps(answer).encode())
            if error is None:
                connection.send_bytes(jpeg or b"")
