"""Socket deadline: one for all that happens on a connection.

A socket's own timeout starts anew with every packet, so a server that sends a byte now and then would never time out.
"""

import io
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Budget:
    """Seconds that one URL may take in all, over tries and redirects; waiting for one's turn at a host is free."""

    def __init__(self, seconds: float) -> None:
        self.left_s = seconds

    @contextmanager
    def running(self) -> Iterator[float]:
        """Spend; yields the deadline (of ``time.monotonic``) at which nothing is left."""
        deadline = time.monotonic() + self.left_s
        try:
            yield deadline
        finally:
            self.left_s = deadline - time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Spend on waiting."""
        if seconds > 0:  # sleeping for 0 s would cost a turn of the interpreter's lock
            with self.running():
                time.sleep(seconds)


class DeadlineSocket:
    """The part of a socket that ``http.client`` uses, with one deadline for all of it."""

    def __init__(self, sock: socket.socket, *, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline

    def sendall(self, data: bytes) -> None:
        """Send everything in the time that is left."""
        self._sock.settimeout(remaining_s(self._deadline))
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        """A reader every read of which waits no longer than the time that is left."""
        assert mode == "rb", mode
        return io.BufferedReader(_DeadlineReader(self._sock, self._deadline))

    def close(self) -> None:
        """Close; readers keep the connection open until they are closed too."""
        self._sock.close()


class _DeadlineReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(remaining_s(self._deadline))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def remaining_s(deadline: float) -> float:
    """Seconds until ``deadline`` (of ``time.monotonic``); raises ``TimeoutError`` once it has passed."""
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError("the deadline of this URL has passed")
    return remaining
