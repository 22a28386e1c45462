"""Politeness of the HTTP client: what a server sees of it."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pipelines.fetch.drop_reasons import FetchError
from pipelines.fetch.hosts import HostLimits
from pipelines.fetch.http_client import HttpClient, HttpConfig


@pytest.fixture
def client(web):
    def client(**options: Any) -> HttpClient:
        connect_to = {"img.test": web.address, "other.test": web.address}
        usual = {"connect_to": connect_to, "backoff_base_s": 0.01, "robots": "ignore"}
        return HttpClient(HttpConfig(**usual | options))

    return client


@pytest.fixture
def answers(web, page):
    """Answer the n-th request with the n-th page, and note on the server's clock when each came."""

    def answers(*pages: Any) -> list[float]:
        times: list[float] = []
        send = web.send

        def send_next(handler: Any, _: Any) -> None:
            times.append(time.monotonic())
            send(handler, pages[min(len(times), len(pages)) - 1])

        web.send = send_next
        return times

    return answers


def test_a_host_sees_no_more_requests_at_once_than_its_limit(web, page, client):
    """Eight threads for two hosts; the server keeps each request until the limit is reached at both, or time is up."""
    inside: dict[str, int] = {"img.test": 0, "other.test": 0}
    peak = dict(inside)
    lock = threading.Lock()
    send = web.send

    def count(handler: Any, page_: Any) -> None:
        host = handler.headers["Host"]
        with lock:
            inside[host] += 1
            peak[host] = max(peak[host], inside[host])
        time.sleep(0.1)
        with lock:  # before the answer, since with it the client is free to come again
            inside[host] -= 1
        send(handler, page_)

    web.send = count
    web.pages["/"] = page(body=b"hello")
    http = client(limits=HostLimits(num_concurrent=3))
    with ThreadPoolExecutor(16) as threads:
        bodies = list(threads.map(lambda i: http.get(f"http://{('img', 'other')[i % 2]}.test/").body, range(24)))
    assert bodies == [b"hello"] * 24
    assert peak == {"img.test": 3, "other.test": 3}


def test_the_wait_for_a_slot_is_not_taken_from_the_budget(web, page, client):
    web.pages["/"] = page(body=b"x" * 30, byte_interval_s=0.002)  # some 0.2 s each, one after the other
    http = client(limits=HostLimits(num_concurrent=1), deadline_s=1.5)
    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(lambda _: http.get("http://img.test/").body, range(16))) == [b"x" * 30] * 16


def test_a_robot_says_who_it_is(web, page, client):
    web.pages["/"] = page(body=b"hello")
    client(user_agent="me/1", contact_url="https://me.test/robot").get("http://img.test/")
    assert web.requests == [("img.test", "/", "me/1 (+https://me.test/robot)")]
    with pytest.raises(ValueError, match=r"the user agent 'me/1\\nHost: x' goes into a header: printable ASCII only"):
        client(user_agent="me/1\nHost: x")


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_waited_for(page, client, answers, status):
    times = answers(page(status=status, headers={"Retry-After": "1"}), page(body=b"hello"))
    assert client().get("http://img.test/").body == b"hello"
    assert 1.0 <= times[1] - times[0] < 10


def test_a_pause_longer_than_the_budget_drops_the_host_s_urls_without_asking(web, page, client, answers):
    times = answers(page(status=429, headers={"Retry-After": "3600"}))
    http = client(deadline_s=5)
    with pytest.raises(FetchError, match="^http_429: img.test:80 wants to be asked again in 3600 s"):
        http.get("http://img.test/1")
    with pytest.raises(FetchError, match="^http_429: img.test:80 wants"):
        http.get("http://img.test/2")
    assert len(times) == 1
    with pytest.raises(FetchError, match="^http_429: other.test:80 wants"):  # asked, and paused too
        http.get("http://other.test/")
    assert len(times) == 2


@pytest.mark.parametrize("status", [429, 500, 503])
def test_retryable_failures_are_tried_three_times(page, client, answers, status):
    times = answers(page(status=status), page(status=status), page(body=b"hello"))
    assert client().get("http://img.test/").body == b"hello"
    assert len(times) == 3


def test_a_body_that_was_cut_off_is_fetched_again(page, client, answers):
    times = answers(page(body=b"hel", announced_bytes=5), page(body=b"hello"))
    assert client().get("http://img.test/").body == b"hello"
    assert len(times) == 2


@pytest.mark.parametrize(("status", "slug"), [(403, "http_403"), (404, "http_404"), (451, "http_other")])
def test_permanent_failures_are_tried_once(page, client, answers, status, slug):
    times = answers(page(status=status))
    with pytest.raises(FetchError, match=f"^{slug}: {status} Status"):
        client().get("http://img.test/")
    assert len(times) == 1


def test_tries_end(page, client, answers):
    times = answers(page(status=500))
    with pytest.raises(FetchError, match="^http_5xx: 500 Status"):
        client(max_tries=2).get("http://img.test/")
    assert len(times) == 2
    with pytest.raises(FetchError, match="^http_5xx: 500 Status"):
        client(backoff_base_s=1000).get("http://img.test/")  # no time for another
    assert len(times) == 3
    with pytest.raises(ValueError, match="max_tries is 0: a URL is tried at least once"):
        client(max_tries=0)


def test_a_dead_host_is_left_alone(page, client, answers, web):
    times = answers(page(body=b"x" * 50, byte_interval_s=0.05))
    http = client(deadline_s=0.1, limits=HostLimits(num_failures_until_dead=3))
    for _ in range(3):
        with pytest.raises(FetchError, match="^timeout: "):
            http.get("http://img.test/")
    for _ in range(20):
        with pytest.raises(FetchError, match="^host_dead: img.test:80 failed 3 times in a row"):
            http.get("http://img.test/")
    assert len(times) == 3


def test_robots_are_fetched_once_a_host_by_many_threads(web, page, client):
    web.pages |= {
        "/robots.txt": page(body=b"User-agent: *\nDisallow: /private/"),
        "/a": page(body=b"a"),
        "/private/a": page(body=b"a"),
        "/moved": page(status=302, headers={"Location": "http://other.test/private/a"}),
    }
    http = client(robots="obey")

    def status(path: str) -> str:
        try:
            http.get(f"http://img.test{path}")
            return "200"
        except FetchError as error:
            return error.slug

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(status, ["/a", "/private/a", "/moved"] * 4))
    assert found == ["200", "robots_disallowed", "robots_disallowed"] * 4
    paths = [(host, path) for host, path, _ in web.requests]
    assert paths.count(("img.test", "/robots.txt")) == paths.count(("other.test", "/robots.txt")) == 1
    assert not [path for _, path in paths if path.startswith("/private")]


@pytest.mark.parametrize(
    ("robots", "outcome"),
    [
        ({"status": 404}, "200"),
        ({"status": 403}, "200"),
        ({"status": 401}, "200"),
        ({"status": 302, "headers": {"Location": "/elsewhere.txt"}}, "robots_disallowed"),
        ({"status": 302, "headers": {"Location": "/robots.txt"}}, "200"),  # a loop is as good as none
        ({"status": 500}, "http_5xx"),
        ({"status": 429}, "http_429"),
        ({"body": b"User-agent: *\nDisallow: /" + b"\n" * 600_000 + b"Allow: /"}, "robots_disallowed"),
        ({"body": b"\xff\xfe\x00", "headers": {"Content-Type": "image/png"}}, "200"),
    ],
)
def test_robots_that_are_missing_moved_broken_or_long(web, page, client, robots, outcome):
    web.pages |= {
        "/robots.txt": page(**robots),
        "/elsewhere.txt": page(body=b"User-agent: *\nDisallow: /"),
        "/a": page(body=b"a"),
    }
    try:
        found = "200" if client(robots="obey").get("http://img.test/a").body == b"a" else "another page"
    except FetchError as error:
        found = error.slug
    assert found == outcome
    assert ("/a" in [path for _, path, _ in web.requests]) is (outcome == "200")


def test_robots_can_be_ignored(web, page, client):
    web.pages |= {"/robots.txt": page(body=b"User-agent: *\nDisallow: /"), "/a": page(body=b"a")}
    assert client(robots="ignore").get("http://img.test/a").body == b"a"
    assert len(web.requests) == 1


@pytest.mark.parametrize(
    ("tag", "is_opted_out"),
    [
        ("noai", True),
        ("NoImageAI , nofollow", True),
        ("noindex", True),
        ("detclipv2-dataset-builder: noimageindex", True),
        ("otherbot: noai", False),
        ("nofollow, nosnippet", False),
        ("unavailable_after: 25 Jun 2010 15:00:00 PST", False),
        ("max-image-preview: large, noai", True),
        ("nofollow, unavailable_after: 25 Jun 2010, noai", True),
    ],
)
def test_opt_out_headers(web, page, client, tag, is_opted_out):
    web.pages["/"] = page(body=b"x" * 100, headers={"X-Robots-Tag": tag})
    if not is_opted_out:
        assert len(client().get("http://img.test/").body) == 100
        return
    with pytest.raises(FetchError, match="^opted_out: X-Robots-Tag"):
        client().get("http://img.test/")
