import socket
import threading
import time

import pytest

from pipelines.fetch.fetch_error import FetchError
from pipelines.fetch.resolver import Resolver
from pipelines.fetch.single_flight import SingleFlightCache


def test_a_host_is_looked_up_once_by_many_threads(monkeypatch):
    calls = []

    def slowly(host: str, *_: object, **__: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        calls.append(host)
        time.sleep(0.05)
        return [(0, 0, 0, "", ("1.1.1.1", 0)), (0, 0, 0, "", ("1.1.1.1", 0)), (0, 0, 0, "", ("1.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    resolver = Resolver()
    answers = []
    names = ["a.test"] * 8 + ["b.test"] * 8
    threads = [threading.Thread(target=lambda n=n: answers.append(resolver.addresses(n))) for n in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(calls) == ["a.test", "b.test"]
    assert answers == [("1.1.1.1", "1.0.0.1")] * 16


def test_a_name_that_does_not_resolve_is_not_asked_for_again(monkeypatch):
    calls = []

    def fail(host: str, *_: object, **__: object) -> None:
        calls.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    resolver = Resolver()
    for _ in range(3):
        with pytest.raises(FetchError, match="^dns: .*not known"):
            resolver.addresses("nowhere.test")
    assert calls == ["nowhere.test"]


def test_values_and_failures_expire_each_in_their_time():
    times = iter([0, 0, 2, 3, 3, 12, 13, 13])  # asked for on every look, and again when something was made
    made = []
    cache: SingleFlightCache[int] = SingleFlightCache(ttl_s=10, failure_ttl_s=3, clock=lambda: next(times))

    def make() -> int:
        made.append(len(made) + 1)
        if made == [1]:
            raise FetchError("dns", "first")
        return made[-1]

    def ask() -> int | str:
        try:
            return cache.get("a", make)
        except FetchError as error:
            return str(error)

    assert [ask() for _ in range(5)] == ["dns: first", "dns: first", 2, 2, 3]


def test_the_least_recently_used_are_forgotten():
    made = []
    cache: SingleFlightCache[str] = SingleFlightCache(ttl_s=10, failure_ttl_s=10, capacity=2)
    for key in ("a", "b", "a", "c", "a", "b"):
        cache.get(key, lambda key=key: made.append(key) or key)  # type: ignore[misc,func-returns-value]
    assert made == ["a", "b", "c", "b"]
