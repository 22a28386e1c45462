"""Hostile URLs through the real stage, one counted reason each, and a listener that sees no connection."""

import gzip
import io
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from pipelines.build.pair_jobs import download_job
from pipelines.build.runner import Runner
from pipelines.fetch.download import Download
from pipelines.fetch.drop_reasons import DROP_REASONS
from pipelines.fetch.http_client import HttpConfig
from pipelines.storage import TableFile
from schemas.tables import URLS

PUBLIC = "1.1.1.1"
_ENDLESS: dict[str, tuple[bytes, bytes]] = {  # by path: what comes first, and what then comes again and again
    "/endless": (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 4096),
    "/endless-chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"x" * 4096 + b"\r\n"),
    "/endless-headers": (b"HTTP/1.1 200 OK\r\n", b"X-More: 1\r\n"),
    "/endless-header-line": (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x" * 4096),
    "/endless-status-line": (b"HTTP/1.1 200 ", b"O" * 4096),
}
_WHOLE = {  # answers that are no good HTTP
    "/negative-chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nxxxxx\r\n",
    "/nonsense": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "/nothing": b"",
}

HOSTILE = {
    # schemes
    "file:///etc/passwd": "bad_url",
    "file://{listener}/x": "bad_url",
    "data:image/png;base64,AAAA": "bad_url",
    "ftp://{listener}/x": "bad_url",
    "gopher://{listener}/_GET": "bad_url",
    "javascript:alert(1)": "bad_url",
    "jar:http://{listener}!/x": "bad_url",
    "//{listener}/x": "bad_url",
    # names of users, and hosts that are none
    "http://img.test@{listener}/": "bad_url",
    "http://img.test:80\\@{listener}/": "bad_url",
    "http://{listener}@img.test/": "bad_url",
    "http://[fe80::1%25lo]:{port}/": "bad_url",
    "http://127.0.0.1%00.img.test:{port}/": "bad_url",
    "http://127.0.0.1:{port}:80/": "bad_url",
    # ports of other protocols
    "http://img.test:22/": "forbidden_port",
    "http://img.test:25/": "forbidden_port",
    "https://img.test:6667/": "forbidden_port",
    # this machine in many spellings
    "http://127.0.0.1:{port}/": "forbidden_address",
    "http://127.0.0.2:{port}/": "forbidden_address",
    "https://127.0.0.1:{port}/": "forbidden_address",
    "http://2130706433:{port}/": "forbidden_address",
    "http://0177.0.0.1:{port}/": "forbidden_address",
    "http://0x7f.1:{port}/": "forbidden_address",
    "http://0x7f000001:{port}/": "forbidden_address",
    "http://127.1:{port}/": "forbidden_address",
    "http://0:{port}/": "forbidden_address",
    "http://0.0.0.0:{port}/": "forbidden_address",
    "http://127。0。0。1:{port}/": "forbidden_address",
    "http://１２７．0．0．1:{port}/": "forbidden_address",
    "http://[::1]:{port}/": "forbidden_address",
    "http://[::]:{port}/": "forbidden_address",
    "http://[::ffff:127.0.0.1]:{port}/": "forbidden_address",
    "http://[::7f00:1]:{port}/": "forbidden_address",
    "http://[64:ff9b::7f00:1]:{port}/": "forbidden_address",
    "http://[2002:7f00:1::]:{port}/": "forbidden_address",
    # other inner networks, and what clouds tell their machines
    "http://10.0.0.1/": "forbidden_address",
    "http://100.64.0.1/": "forbidden_address",
    "http://224.0.0.1/": "forbidden_address",
    "http://255.255.255.255/": "forbidden_address",
    "http://169.254.169.254/latest/meta-data/": "forbidden_address",
    "http://[fd00:ec2::254]/latest/meta-data/": "forbidden_address",
    "http://168.63.129.16/machine": "forbidden_address",
    "http://192.0.0.192/opc/v2/": "forbidden_address",
    "http://metadata.google.internal/computeMetadata/v1/": "forbidden_address",
    # names
    "http://localhost.:{port}/": "forbidden_address",
    "http://inside.test:{port}/": "forbidden_address",
    "http://inside6.test:{port}/": "forbidden_address",
    "http://all-inside.test:{port}/": "forbidden_address",
    "http://flip.test:{port}/": "connection",  # public when asked first, and that answer alone is used
    "http://half-inside.test:{port}/": "connection",  # a public address beside an inner one
    "http://127.0.0.1.:{port}/": "dns",
    "http://nowhere.test/": "dns",
    # redirects
    "http://img.test/to?file:///etc/passwd": "bad_redirect",
    "http://img.test/to?data:image/png,x": "bad_redirect",
    "http://img.test/to?http://img.test@{listener}/": "bad_redirect",
    "http://img.test/to?http://img.test:22/": "forbidden_port",
    "http://img.test/to?http://{listener}/": "forbidden_address",
    "http://img.test/to?//{listener}/": "forbidden_address",
    "http://img.test/to?http://2130706433:{port}/": "forbidden_address",
    "http://img.test/to?http://inside.test:{port}/": "forbidden_address",
    "http://img.test/to?http://img.test/to?http://{listener}/": "forbidden_address",
    "http://img.test/to?/to?/to?/to?/to?/to?/far": "http_other",
    "http://img.test/loop": "http_other",
    # time and size
    "http://img.test/drip": "timeout",
    "http://img.test/slow-headers": "timeout",
    "http://img.test/huge": "too_large",
    "http://img.test/endless": "too_large",
    "http://img.test/endless-chunks": "too_large",
    "http://img.test/longer-than-announced": "not_an_image",
    "http://img.test/shorter-than-announced": "truncated",
    "http://img.test/endless-headers": "connection",
    "http://img.test/endless-header-line": "connection",
    "http://img.test/endless-status-line": "connection",
    "http://img.test/negative-chunk": "connection",
    "http://img.test/nonsense": "connection",
    "http://img.test/nothing": "connection",
    # images
    "http://img.test/bomb.png": "too_many_pixels",
    "http://img.test/giant.png": "too_many_pixels",
    "http://img.test/bomb.gif": "too_many_pixels",
    "http://img.test/bomb.webp": "too_many_pixels",
    "http://img.test/bomb.tiff": "too_many_pixels",
    "http://img.test/bomb.bmp": "too_many_pixels",
    "http://img.test/bomb.jpg": "too_many_pixels",
    "http://img.test/bomb.ico": "not_an_image",  # Pillow would decode it to learn its size
    "http://img.test/text-bomb.png": "not_an_image",
    "http://img.test/gzip-bomb": "not_an_image",
    "http://img.test/bomb.svg": "not_an_image",
    "http://img.test/program.eps": "not_an_image",  # a program in PostScript, which Pillow would have run
    # politeness
    "http://img.test/private/a.jpg": "robots_disallowed",
    "http://img.test/noai": "opted_out",
}
ADDRESSES = {
    "localhost.": ["127.0.0.1"],
    "metadata.google.internal": ["169.254.169.254"],
    "inside.test": ["127.0.0.2"],
    "inside6.test": ["::1"],
    "all-inside.test": ["10.0.0.1", "127.0.0.2", "fd00::1"],
    "half-inside.test": ["127.0.0.1", PUBLIC, "127.0.0.2"],
}


class Listener:
    """Accepts connections on all addresses of this machine, and counts them."""

    def __init__(self) -> None:
        self.num_connections = 0
        self._socket = socket.create_server(("", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.num_connections += 1
                connection.close()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def network(monkeypatch) -> dict[str, Counter[str]]:
    """Names resolve by a table, numbers as ever, and nothing leaves this machine; look-ups and connections by host."""
    seen: dict[str, Counter[str]] = {"looked up": Counter(), "connected": Counter()}
    getaddrinfo, create_connection = socket.getaddrinfo, socket.create_connection

    def look_up(host: str, port: Any, *args: Any, **options: Any) -> list[Any]:
        seen["looked up"][host] += 1
        if host == "flip.test":
            addresses = [PUBLIC] if seen["looked up"][host] == 1 else ["127.0.0.1"]
        elif host in ADDRESSES:
            addresses = ADDRESSES[host]
        else:
            return getaddrinfo(host, port, *args, flags=socket.AI_NUMERICHOST, **options)
        return [(0, 0, 0, "", (address, port)) for address in addresses]

    def connect(address: tuple[str, int], *args: Any, **options: Any) -> socket.socket:
        seen["connected"][address[0]] += 1
        if address[0] == PUBLIC:
            raise ConnectionRefusedError("this test has no internet")
        return create_connection(address, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(socket, "create_connection", connect)
    return seen


@pytest.fixture
def hostile_web(web, page, make_image) -> Any:
    """The pages of ``img.test``."""
    jpeg, large = make_image(), {"size": (1000, 500)}
    web.pages |= {
        "/robots.txt": page(body=b"User-agent: *\nDisallow: /private/"),
        "/private/a.jpg": page(body=jpeg),
        "/noai": page(body=jpeg, headers={"X-Robots-Tag": "noai"}),
        "/good.jpg": page(body=jpeg),
        "/loop": page(status=302, headers={"Location": "/loop"}),
        "/drip": page(body=b"x" * 1000, byte_interval_s=0.05),
        "/slow-headers": page(byte_interval_s=0.2),
        "/huge": page(announced_bytes=10**12),
        "/longer-than-announced": page(body=jpeg, announced_bytes=10),
        "/shorter-than-announced": page(body=jpeg[:-100], announced_bytes=len(jpeg)),
        "/bomb.png": page(body=make_image(format="PNG", **large)),
        "/giant.png": page(body=png(50_000, 50_000)),
        "/bomb.gif": page(body=make_image(format="GIF", mode="P", **large)),
        "/bomb.webp": page(body=make_image(format="WEBP", **large)),
        "/bomb.tiff": page(body=make_image(format="TIFF", compression="tiff_deflate", **large)),
        "/bomb.bmp": page(body=bmp(1000, 500)),
        "/bomb.jpg": page(body=make_image(**large)),
        "/bomb.ico": page(body=ico(make_image(format="PNG", **large))),
        "/text-bomb.png": page(body=text_bomb()),
        "/gzip-bomb": page(body=gzip.compress(b"\0" * 2**24), headers={"Content-Encoding": "gzip"}),
        "/bomb.svg": page(body=b'<svg xmlns="http://www.w3.org/2000/svg" width="99999" height="99999"/>'),
        "/program.eps": page(body=b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"),
    }
    send = web.send

    def send_hostile(handler: Any, page_: Any) -> None:
        path, _, query = handler.path.partition("?")
        with suppress(OSError):
            if path == "/to":
                send(handler, page(status=302, headers={"Location": query}))
            elif path in _ENDLESS:
                first, again = _ENDLESS[path]
                handler.wfile.write(first)
                while True:
                    handler.wfile.write(again)
            elif path in _WHOLE:
                handler.wfile.write(_WHOLE[path])
            else:
                send(handler, page_)

    web.send = send_hostile
    return web


def test_one_counted_reason_each_and_no_connection(hostile_web, listener, network, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{listener.port}")
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{listener.port}")
    where = {"listener": f"127.0.0.1:{listener.port}", "port": listener.port}
    expected = {url.format(**where): reason for url, reason in HOSTILE.items()} | {"http://img.test/good.jpg": None}
    assert len(HOSTILE) >= 40

    table = run(list(expected), tmp_path, connect_to={"img.test": hostile_web.address})

    dropped = pq.read_table(table.folder / "dropped.parquet")
    reasons = dict(zip(dropped["url"].to_pylist(), dropped["drop_reason"].to_pylist(), strict=True))
    assert reasons == {url: reason for url, reason in expected.items() if reason is not None}
    assert table.manifest.dropped == Counter(HOSTILE.values())
    assert (table.manifest.rows_in, table.manifest.rows_kept) == (len(HOSTILE) + 1, 1)
    assert set(HOSTILE.values()) <= DROP_REASONS

    assert listener.num_connections == 0
    assert set(network["connected"]) == {
        "127.0.0.1",
        PUBLIC,
    }  # the trusted target of img.test, and two names' addresses
    assert network["looked up"]["flip.test"] == 1
    del network["looked up"]["127.0.0.1"]  # every connection to the trusted target looks its number up
    assert set(network["looked up"].values()) == {1}


def test_the_listener_listens(listener):
    socket.create_connection(("127.0.0.2", listener.port), timeout=5).close()
    deadline = time.monotonic() + 10
    while not listener.num_connections and time.monotonic() < deadline:
        time.sleep(0.01)
    assert listener.num_connections == 1


def run(urls: list[str], folder: Any, *, connect_to: dict[str, str]) -> Any:
    """The published table of a build's ``images`` asset."""
    keys = [f"{i:016x}" for i in range(len(urls))]
    rows = [{"key": key, "url": url, "caption": "x", "source": "test"} for key, url in zip(keys, urls, strict=True)]
    path = folder / "urls.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=URLS), path)
    http = HttpConfig(deadline_s=2, max_bytes=200_000, connect_to=connect_to, backoff_base_s=0.01)
    job = download_job(
        "images",
        Download(image_size_px=40, max_pixels=499_999, thread_count=16, http=http),
        TableFile(name="urls/a/kept.parquet", path=path, sha256="0", num_rows=len(urls)),
        shard="a",
    )
    runner = Runner(folder / "data", dataset="hostile", console=Console(file=io.StringIO()))
    return runner.run("images", [job], where="here").tables["a"]


def png(width: int, height: int, *more: tuple[bytes, bytes]) -> bytes:
    """A PNG with the pixels of its first line at most, and more chunks before them."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    chunks = [header, *more, (b"IDAT", zlib.compress(b"\0" * (1 + 3 * width))), (b"IEND", b"")]
    written = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + written


def text_bomb() -> bytes:
    """A PNG of one pixel with 64 MiB of text in 64 kB."""
    return png(1, 1, (b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 2**26)))


def bmp(width: int, height: int) -> bytes:
    """The header of a BMP."""
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "BMP")
    return buffer.getvalue()[:18] + struct.pack("<ii", width, height) + buffer.getvalue()[26:]


def ico(png: bytes) -> bytes:
    """An icon with one PNG in it."""
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 0, 0, 0, 0, 1, 32, len(png), 22) + png
