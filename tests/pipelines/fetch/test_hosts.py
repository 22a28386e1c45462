import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.fetch.drop_reasons import FetchError
from pipelines.fetch.hosts import Host, HostLimits, Hosts, backoff_s, retry_after_s


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def host(clock: Clock) -> Host:
    return Hosts(HostLimits(num_concurrent=2, num_failures_until_dead=3, dead_s=60), clock=clock).get("a.test:80")


def attempt(host: Host, slug: str | None) -> None:
    """A request that fails with ``slug``, or not."""
    with host.slot():
        if slug is not None:
            raise FetchError(slug, "as asked")


def fail(host: Host, slug: str, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(FetchError, match=f"^{slug}: as asked"):
            attempt(host, slug)


def test_no_more_threads_than_slots(host):
    inside, peak = 0, 0
    lock, two_inside = threading.Lock(), threading.Barrier(2)

    def work() -> None:
        nonlocal inside, peak
        with host.slot():
            with lock:
                inside += 1
                peak = max(peak, inside)
            two_inside.wait(timeout=10)  # both slots are really used
            with lock:
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert peak == 2


def test_a_dead_host_is_not_asked_until_a_trial_succeeds(host, clock):
    fail(host, "connection", 2)
    fail(host, "timeout")
    with pytest.raises(FetchError, match="^host_dead: a.test:80 failed 3 times in a row"):
        attempt(host, None)

    clock.now += 60
    fail(host, "connection")  # the trial
    with pytest.raises(FetchError, match="^host_dead: a.test:80 failed 4 times in a row"):
        attempt(host, None)

    clock.now += 60
    with host.slot(), pytest.raises(FetchError, match="^host_dead: "):  # one trial at a time
        attempt(host, None)
    attempt(host, None)
    fail(host, "connection", 2)


def test_any_answer_counts_as_life_and_what_never_reached_the_host_counts_for_nothing(host):
    fail(host, "connection", 2)
    fail(host, "http_404")
    fail(host, "connection", 2)
    fail(host, "dns")
    fail(host, "connection")
    with pytest.raises(FetchError, match="^host_dead: "):
        attempt(host, None)


def test_retry_after_is_obeyed(host, clock):
    assert host.retry_after_left(0) == 0
    host.note_retry_after("5", slug="http_429")
    host.note_retry_after("2", slug="http_429")  # shorter: the longer one counts
    assert host.retry_after_left(10) == 5
    with pytest.raises(FetchError, match="^http_429: a.test:80 wants to be asked again in 5 s"):
        host.retry_after_left(4.9)
    clock.now += 5
    assert host.retry_after_left(0) == 0
    host.note_retry_after(None, slug="http_429")
    assert host.retry_after_left(0) == 0


def test_an_expired_budget_without_retry_after_raises_nothing(host):
    assert host.retry_after_left(-1) == 0


def test_the_least_recently_used_hosts_are_forgotten(monkeypatch):
    monkeypatch.setattr("pipelines.fetch.hosts._CAPACITY", 2)
    hosts = Hosts(HostLimits())
    a, _ = hosts.get("a"), hosts.get("b")
    assert hosts.get("a") is a
    hosts.get("c")
    assert hosts.get("a") is a
    hosts.get("d"), hosts.get("e")
    assert hosts.get("a") is not a


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("0", 0),
        (" 120 ", 120),
        ("9" * 400, 86400),
        ("1.5", None),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
        ("Fri, 31 Dec 1999 25:61:61 GMT", None),
        ("Fri, 31 Dec 1999 23:59:59 +999999999999", None),
    ],
)
def test_retry_after_as_seconds(header, seconds):
    assert retry_after_s(header) == seconds


def test_retry_after_as_a_date():
    now = datetime.now(UTC)
    assert retry_after_s(format_datetime(now + timedelta(seconds=100), usegmt=True)) == pytest.approx(99, abs=5)
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 -0000") == 0
    assert retry_after_s("Fri, 31 Dec 9999 23:59:59 GMT") == 86400


@given(st.text(max_size=60) | st.from_regex(r"\A\w{3}, \d{1,3} \w{3} \d{1,9} \d\d:\d\d(:\d\d)? [+-]?\w{1,12}\Z"))
def test_no_retry_after_ends_in_an_error(header):
    seconds = retry_after_s(header)
    assert seconds is None or 0 <= seconds <= 86400


def test_the_wait_doubles_and_differs_from_url_to_url_but_not_from_run_to_run():
    waits = [[backoff_s(f"http://a.test/{i}", num_tries=n, base_s=2) for i in range(200)] for n in (1, 2)]
    assert 1 <= min(waits[0]) < 1.1 and 2.9 < max(waits[0]) <= 3
    assert 2 <= min(waits[1]) < 2.2 and 5.8 < max(waits[1]) <= 6
    assert waits[0] == [backoff_s(f"http://a.test/{i}", num_tries=1, base_s=2) for i in range(200)]
