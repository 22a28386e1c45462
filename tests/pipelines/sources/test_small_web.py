"""The small web over real connections on loopback: what every kind of index answers, load, the log, and its end."""

import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pipelines.sources.emoji_scenes import EmojiScenes
from pipelines.sources.small_web import PHOTOS_HOST, SmallWeb

SCENES = EmojiScenes(seed=3, image_size_px=96)
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallWeb]:
    with SmallWeb(SCENES, folder=tmp_path_factory.mktemp("web")) as web:
        yield web


def get(web: SmallWeb, url: str) -> http.client.HTTPResponse:
    """The response to a GET, its body not read yet; redirects are not followed."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(web.connect_to[parts.netloc], timeout=10)
    connection.request("GET", parts.path, headers={"Host": parts.netloc})
    return connection.getresponse()


def first_of_kind(kind: str) -> int:
    return next(index for index in range(20_000) if SCENES.kind_of(index) == kind)


@pytest.mark.parametrize("kind", ["picture", "tiny", "wide", "duplicate", "recaptioned", "near_duplicate", "noai"])
def test_images_arrive_whole(web: SmallWeb, kind: str) -> None:
    index = first_of_kind(kind)
    response = get(web, SCENES.url(index))
    assert (response.status, response.headers["Content-Type"]) == (200, "image/jpeg")
    assert response.read() == SCENES.image(index)
    assert response.headers["X-Robots-Tag"] == ("noai" if kind == "noai" else None)


@pytest.mark.parametrize(("kind", "status"), [("not_found", 404), ("forbidden", 403)])
def test_errors(web: SmallWeb, kind: str, status: int) -> None:
    assert get(web, SCENES.url(first_of_kind(kind))).status == status


def test_redirect_leads_to_the_image_on_another_host(web: SmallWeb) -> None:
    index = first_of_kind("redirect")
    response = get(web, SCENES.url(index))
    location = response.headers["Location"]
    assert response.status == 302
    assert urlsplit(location).netloc != urlsplit(SCENES.url(index)).netloc
    assert get(web, location).read() == SCENES.image(index)


def test_html_calls_itself_a_jpeg(web: SmallWeb) -> None:
    response = get(web, SCENES.url(first_of_kind("html")))
    assert response.headers["Content-Type"] == "image/jpeg"
    assert response.read().startswith(b"<!DOCTYPE html>")


def test_cut_jpeg_is_half_a_file(web: SmallWeb) -> None:
    index = first_of_kind("cut_jpeg")
    image = SCENES.image(index)
    assert get(web, SCENES.url(index)).read() == image[: len(image) // 2]


def test_short_body_ends_before_its_length(web: SmallWeb) -> None:
    index = first_of_kind("short_body")
    with pytest.raises(http.client.IncompleteRead) as error:
        get(web, SCENES.url(index)).read()
    assert len(error.value.partial) == len(SCENES.image(index)) // 2


def test_drip_never_ends_and_is_never_silent_for_long(web: SmallWeb) -> None:
    response = get(web, SCENES.url(first_of_kind("drip")))
    response.read(16)
    for _ in range(5):
        start = time.monotonic()
        assert response.read(1) == b"\0"
        assert time.monotonic() - start < 2


@pytest.mark.parametrize("url", ["http://{host}/robots.txt", "http://{host}/7.jpg", "http://{host}/originals/{file}"])
def test_what_is_not_there_is_404(web: SmallWeb, url: str) -> None:
    parts = urlsplit(SCENES.url(first_of_kind("picture")))
    assert get(web, url.format(host=parts.netloc, file=parts.path.lstrip("/"))).status == 404


def test_an_image_lies_on_its_own_host_only(web: SmallWeb) -> None:
    parts = urlsplit(SCENES.url(first_of_kind("picture")))
    for host in web.connect_to:
        assert get(web, f"http://{host}{parts.path}").status == (200 if host == parts.netloc else 404)


def test_a_hundred_clients_at_once(web: SmallWeb) -> None:
    indices = [index for index in range(400) if SCENES.kind_of(index) == "picture"][:200]
    with ThreadPoolExecutor(100) as clients:
        bodies = list(clients.map(lambda index: get(web, SCENES.url(index)).read(), indices))
    assert bodies == [SCENES.image(index) for index in indices]


def test_requests_are_counted_across_restarts(tmp_path: Path) -> None:
    first, second = SCENES.url(first_of_kind("picture")), SCENES.url(first_of_kind("not_found"))
    web = SmallWeb(SCENES, folder=tmp_path)
    assert web.request_counts() == {}
    for _ in range(2):
        with SmallWeb(SCENES, folder=tmp_path) as web:
            get(web, first).read()
        assert web.connect_to == {}
    with SmallWeb(SCENES, folder=tmp_path) as web:
        get(web, second).read()
        assert web.request_counts() == {first: 2, second: 1}
    statuses = [json.loads(line)["status"] for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert statuses == [200, 200, 404]


def test_an_answer_is_logged_when_it_was_taken_whole(tmp_path: Path) -> None:
    whole, short, cut = (SCENES.url(first_of_kind(kind)) for kind in ("wide", "short_body", "picture"))
    log = tmp_path / "answers.jsonl"
    with SmallWeb(SCENES, folder=tmp_path) as web:
        with get(web, short) as response, pytest.raises(http.client.IncompleteRead):
            response.read()
        with socket.create_connection(web.connect_to[urlsplit(cut).netloc].split(":")) as unread:
            unread.sendall(f"GET {urlsplit(cut).path} HTTP/1.1\r\nHost: {urlsplit(cut).netloc}\r\n\r\n".encode())
            assert unread.recv(1) == b"H"  # and no more: a reset, whatever is on its way
            unread.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        before = time.time()
        get(web, whole).read()
        deadline = time.monotonic() + 10
        while not log.read_text() and time.monotonic() < deadline:
            time.sleep(0.02)
    (entry,) = map(json.loads, log.read_text().splitlines())
    assert (entry["url"], entry["status"]) == (whole, 200)
    assert before <= entry["asked_s"] <= entry["taken_s"] <= time.time()


def test_a_folder_of_photos(tmp_path: Path) -> None:
    (tmp_path / "photos" / "a b").mkdir(parents=True)
    (tmp_path / "photos" / "a b" / "x.jpg").write_bytes(b"a photo")
    (tmp_path / "secret.txt").write_text("not served")
    with SmallWeb(tmp_path / "photos", folder=tmp_path / "log") as web:
        response = get(web, f"http://{PHOTOS_HOST}/a%20b/x.jpg")
        assert (response.status, response.headers["Content-Type"], response.read()) == (200, "image/jpeg", b"a photo")
        assert get(web, f"http://{PHOTOS_HOST}/../secret.txt").status == 404
        assert get(web, f"http://{PHOTOS_HOST}/y.jpg").status == 404
        assert web.request_counts()[f"http://{PHOTOS_HOST}/a%20b/x.jpg"] == 1


def test_command_line_serves_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"an image")
    command = [sys.executable, "-m", "pipelines.sources.small_web", "--serve", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        assert server.stdout is not None
        try:
            address = server.stdout.readline().strip()
            with urllib.request.urlopen(f"{address}/x.png", timeout=10) as response:
                assert (response.read(), response.headers["Content-Type"]) == (b"an image", "image/png")
        finally:
            server.terminate()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere"):
        SmallWeb(tmp_path / "nowhere", folder=tmp_path)


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from pipelines.sources.emoji_scenes import EmojiScenes
from pipelines.sources.small_web import SmallWeb
with SmallWeb(EmojiScenes(), folder=Path({str(tmp_path)!r})) as web:
    print(next(iter(web.connect_to.values())), flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        host, port = parent.stdout.readline().strip().split(":")
        os.kill(parent.pid, signal.SIGKILL)  # no `with` block is left in order
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            http.client.HTTPConnection(host, int(port), timeout=1).connect()
        except ConnectionRefusedError:
            return
        time.sleep(0.1)
    pytest.fail("the server outlived its parent by 10 s")
