import socket
import threading
import time

import pytest

from pipelines.fetch.addresses import MAX_ADDRESSES, look_up
from pipelines.fetch.drop_reasons import FetchError
from pipelines.fetch.single_flight import SingleFlightCache


def test_a_host_is_looked_up_once_by_many_threads(monkeypatch):
    calls = []

    def slowly(host: str, *_: object, **__: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        calls.append(host)
        time.sleep(0.05)
        return [(0, 0, 0, "", ("1.1.1.1", 0)), (0, 0, 0, "", ("1.1.1.1", 0)), (0, 0, 0, "", ("1.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    cache: SingleFlightCache[tuple[str, ...]] = SingleFlightCache(ttl_s=10, failure_ttl_s=10)
    answers = []
    names = ["a.test"] * 8 + ["b.test"] * 8
    threads = [threading.Thread(target=lambda n=n: answers.append(cache.get(n, lambda: look_up(n)))) for n in names]
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
    cache: SingleFlightCache[tuple[str, ...]] = SingleFlightCache(ttl_s=10, failure_ttl_s=10)
    for _ in range(3):
        with pytest.raises(FetchError, match="^dns: .*not known"):
            cache.get("nowhere.test", lambda: look_up("nowhere.test"))
    assert calls == ["nowhere.test"]


def test_values_and_failures_expire_each_in_their_time():
    now = 0.0
    made = []
    cache: SingleFlightCache[int] = SingleFlightCache(ttl_s=10, failure_ttl_s=3, clock=lambda: now)

    def make() -> int:
        made.append(len(made) + 1)
        if made == [1]:
            raise FetchError("dns", "first")
        return made[-1]

    found: dict[float, int | str] = {}
    for now in (0, 2.9, 3, 12.9, 13):
        try:
            found[now] = cache.get("a", make)
        except FetchError as error:
            found[now] = str(error)
    assert found == {0: "dns: first", 2.9: "dns: first", 3: 2, 12.9: 2, 13: 3}


def test_an_error_that_is_no_answer_is_not_remembered_and_frees_those_who_wait():
    cache: SingleFlightCache[int] = SingleFlightCache(ttl_s=10, failure_ttl_s=10)
    started, found = threading.Event(), []

    def fail() -> int:
        started.set()
        time.sleep(0.1)
        raise KeyError("a bug")

    def wait() -> None:
        started.wait()
        found.append(cache.get("a", lambda: 1))

    thread = threading.Thread(target=wait)
    thread.start()
    with pytest.raises(KeyError, match="a bug"):
        cache.get("a", fail)
    thread.join(timeout=10)
    assert found == [1]


def test_the_least_recently_used_are_forgotten():
    made = []
    cache: SingleFlightCache[str] = SingleFlightCache(ttl_s=10, failure_ttl_s=10, capacity=2)
    for key in ("a", "b", "a", "c", "a", "b"):
        cache.get(key, lambda key=key: made.append(key) or key)  # type: ignore[misc,func-returns-value]
    assert made == ["a", "b", "c", "b"]


def test_what_weighs_more_leaves_less_room_for_others():
    cache: SingleFlightCache[int] = SingleFlightCache(
        ttl_s=10, failure_ttl_s=10, capacity=10, weight=lambda value: value
    )
    made = []

    def make(value: int) -> int:
        made.append(value)
        return value

    for key, value in (("a", 4), ("b", 4), ("a", 4), ("c", 6), ("a", 4), ("b", 4), ("huge", 11), ("huge", 11)):
        assert cache.get(key, lambda value=value: make(value)) == value
    assert made == [4, 4, 6, 4, 11, 11], "c pushed b out; what weighs more than all is never kept"


def test_a_host_of_thousands_of_addresses_has_its_first(monkeypatch):
    found = [(0, 0, 0, "", (f"1.{i // 256}.{i % 256}.1", 0)) for i in range(5000)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert look_up("a.test") == tuple(address for *_, (address, _) in found[:MAX_ADDRESSES])
