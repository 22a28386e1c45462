"""A cache in front of something slow: one thread asks, the others wait for its answer; failures are remembered too."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from pipelines.fetch.fetch_error import FetchError

Value = TypeVar("Value")


class SingleFlightCache(Generic[Value]):
    """Values, and ``FetchError``s in place of values, by key, for a while; the least recently used are forgotten first."""

    def __init__(
        self,
        *,
        ttl_s: float,
        failure_ttl_s: float,
        capacity: int = 20_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ttl_s = ttl_s
        self._failure_ttl_s = failure_ttl_s
        self._capacity = capacity
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry[Value]] = OrderedDict()

    def get(self, key: str, make: Callable[[], Value]) -> Value:
        """The value of ``key``, from ``make`` where none is known or it has expired.

        Raises:
            FetchError: what ``make`` raised, now or not long ago.
        """
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            while len(self._entries) > self._capacity:
                self._entries.popitem(last=False)
        with entry.lock:
            if self._clock() >= entry.expires:
                self._fill(entry, make)
            if entry.error is not None:
                # A new one each time: a traceback grows with every raise of the same exception.
                raise FetchError(entry.error.slug, entry.error.detail)
            assert entry.value is not None
            return entry.value

    def _fill(self, entry: "_Entry[Value]", make: Callable[[], Value]) -> None:
        try:
            entry.value, entry.error = make(), None
            entry.expires = self._clock() + self._ttl_s
        except FetchError as error:
            entry.value, entry.error = None, FetchError(error.slug, error.detail)
            entry.expires = self._clock() + self._failure_ttl_s


class _Entry(Generic[Value]):
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.expires = float("-inf")
        self.value: Value | None = None
        self.error: FetchError | None = None
