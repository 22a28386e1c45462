"""Per-host politeness: a concurrency limit, Retry-After, and a circuit breaker for hosts that do not answer.

The limits are those of one process: with several workers a host sees at most the sum of them.
"""

import datetime
import email.utils
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from cachetools import LRUCache, cached

from pipelines.fetch.drop_reasons import FetchError

_CAPACITY = 20_000
_LONGEST_PAUSE_S = 86_400.0
_CONNECTION_ERRORS = frozenset({"connection", "timeout"})
_NOT_CONNECTED = frozenset({"dns", "forbidden_address"})  # says nothing about the host; the DNS cache remembers these


@dataclass(frozen=True, kw_only=True)
class HostLimits:
    """Limits on the requests to one host.

    Attributes:
        num_concurrent: requests to one host and port at once, in this process.
        num_failures_until_dead: failures in a row to connect or to answer in time after which a host counts as dead.
        dead_s: seconds until one trial request finds out whether a dead host is back.
    """

    num_concurrent: int = 4
    num_failures_until_dead: int = 10
    dead_s: float = 60.0


class Host:
    """One host and port; shared by the threads that fetch."""

    def __init__(self, name: str, *, limits: HostLimits, clock: Callable[[], float]) -> None:
        self._name = name
        self._limits = limits
        self._clock = clock
        self._slots = threading.BoundedSemaphore(limits.num_concurrent)
        self._lock = threading.Lock()
        self._num_failures = 0
        self._retry_dead_at = 0.0
        self._retry_after_until = 0.0
        self._retry_after_slug = ""

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Wait for one of the few slots, and record how the request within ends.

        Raises:
            FetchError: ``host_dead`` in place of a request to a host that has failed again and again.
        """
        self._refuse_if_dead(takes_trial=False)  # without waiting for a slot
        with self._slots:
            self._refuse_if_dead(takes_trial=True)
            try:
                yield
            except FetchError as error:
                self._record(error.slug)
                raise
            self._record(None)

    def retry_after_left(self, budget_s: float) -> float:
        """Seconds of the host's Retry-After that are left to wait.

        Raises:
            FetchError: ``http_429`` or ``http_5xx``, with which it came, where they are more than ``budget_s``.
        """
        wait_s = max(0.0, self._retry_after_until - self._clock())
        if wait_s and wait_s > budget_s:
            raise FetchError(self._retry_after_slug, f"{self._name} wants to be asked again in {wait_s:.0f} s")
        return wait_s

    def note_retry_after(self, retry_after: str | None, *, slug: str) -> None:
        """Obey a Retry-After header; what is neither a number of seconds nor a date is ignored."""
        seconds = retry_after_s(retry_after)
        if seconds is not None:
            with self._lock:
                self._retry_after_slug = slug
                self._retry_after_until = max(self._retry_after_until, self._clock() + seconds)

    def _refuse_if_dead(self, *, takes_trial: bool) -> None:
        """The circuit breaker: a dead host is refused, but for one trial request in a while."""
        with self._lock:
            if self._num_failures < self._limits.num_failures_until_dead:
                return
            now = self._clock()
            if now < self._retry_dead_at:
                raise FetchError("host_dead", f"{self._name} failed {self._num_failures} times in a row")
            if takes_trial:
                self._retry_dead_at = now + self._limits.dead_s

    def _record(self, slug: str | None) -> None:
        with self._lock:
            if slug in _CONNECTION_ERRORS:
                self._num_failures += 1
                self._retry_dead_at = self._clock() + self._limits.dead_s
            elif slug not in _NOT_CONNECTED:
                self._num_failures = 0


class Hosts:
    """The hosts of this process; the least recently used are forgotten first."""

    def __init__(self, limits: HostLimits, *, clock: Callable[[], float] = time.monotonic) -> None:
        hosts: LRUCache[str, Host] = LRUCache(_CAPACITY)
        # By ``host:port``; with a lock, `cached` gives all threads the same host.
        self.get = cached(hosts, lock=threading.Lock())(partial(Host, limits=limits, clock=clock))


def retry_after_s(header: str | None) -> float | None:
    """Seconds of a Retry-After header, a day at most; None where it is neither a number nor a date."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return min(_LONGEST_PAUSE_S, float(text[:9]))
    try:
        at = email.utils.parsedate_to_datetime(text)
        if at.tzinfo is None:  # "-0000": UTC, says RFC 5322
            at = at.replace(tzinfo=datetime.UTC)
    except (ValueError, OverflowError):  # an hour 25; a year or a zone beyond what a date can hold
        return None
    return min(_LONGEST_PAUSE_S, max(0.0, at.timestamp() - time.time()))


def backoff_s(url: str, *, num_tries: int, base_s: float) -> float:
    """Seconds between one try and the next: doubled each time, and from half to one and a half of that, fixed by the URL."""
    digest = hashlib.sha256(f"{num_tries} {url}".encode(errors="replace")).digest()
    jitter = int.from_bytes(digest[:8], "big") / 2**64
    return float(base_s * 2 ** (num_tries - 1) * (0.5 + jitter))
