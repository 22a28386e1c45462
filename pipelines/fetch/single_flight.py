"""Cache with single flight and expiry (robots.txt, DNS): one thread asks, the others wait; failures are remembered too."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from cachetools import TLRUCache, cached

from pipelines.fetch.drop_reasons import FetchError

Value = TypeVar("Value")


class SingleFlightCache(Generic[Value]):
    """Values, and ``FetchError``s in place of values, by key; the least recently used are forgotten first.

    Args:
        ttl_s: seconds that a value is known.
        failure_ttl_s: seconds that a failure is.
        capacity: most weight of all that is known.
        weight: of a value, above 0; a failure weighs 1, and so does each value unless given.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        *,
        ttl_s: float,
        failure_ttl_s: float,
        capacity: int = 20_000,
        weight: Callable[[Value], float] = lambda _: 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        def expires(_key: str, outcome: Value | FetchError, now: float) -> float:
            return now + (failure_ttl_s if isinstance(outcome, FetchError) else ttl_s)

        def size(outcome: Value | FetchError) -> float:
            return 1 if isinstance(outcome, FetchError) else weight(outcome)

        outcomes: TLRUCache[str, Value | FetchError] = TLRUCache(capacity, ttu=expires, timer=clock, getsizeof=size)
        # With a condition, `cached` lets one thread compute a missing key while the others wait for it.
        self._outcome = cached(outcomes, key=lambda key, _: key, condition=threading.Condition())(_outcome)

    def get(self, key: str, make: Callable[[], Value]) -> Value:
        """The value of ``key``, from ``make`` where none is known or it has expired.

        Raises:
            FetchError: what ``make`` raised, now or not long ago.
        """
        outcome: Value | FetchError = self._outcome(key, make)
        if isinstance(outcome, FetchError):
            # A new one each time: a traceback grows with every raise of the same exception.
            raise FetchError(outcome.slug, outcome.detail)
        return outcome


def _outcome(_key: str, make: Callable[[], Value]) -> Value | FetchError:
    try:
        return make()
    except FetchError as error:
        return FetchError(error.slug, error.detail)  # without the traceback, which would keep frames alive
