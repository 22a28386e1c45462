"""Fixtures: an S3 server, a loopback web of misbehaving pages, images, tables and golden outputs."""

import io
import json
import os
import resource
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from upath import UPath

from schemas.tables import IMAGES
from tests.loopback_web import Page, Web

GOLDEN = Path(__file__).parents[1] / "golden" / "stages"
SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def s3_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which ``s3://`` is a server of this machine, and the cache a folder of this test session."""
    pytest.importorskip("s3fs", reason="s3:// needs s3fs")
    pytest.importorskip("moto", reason="moto is the S3 server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not answers(address):
            assert server.poll() is None and time.monotonic() < deadline, "the S3 server did not start"
            time.sleep(0.1)
        yield {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "NO_PROXY": "127.0.0.1",
            "DETCLIPV2_CACHE": str(tmp_path_factory.mktemp("cache")),
        }
    finally:
        server.terminate()
        server.wait(timeout=30)


def answers(address: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(address, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@pytest.fixture
def bucket(s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> UPath:
    """An empty bucket."""
    import s3fs

    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()  # clients of another endpoint
    name = f"test-{abs(hash(request.node.nodeid)):x}"
    bucket = UPath(f"s3://{name}", use_listings_cache=False)
    bucket.fs.mkdir(name)
    return bucket


@pytest.fixture
def cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of this test alone; asked for after ``bucket``, it takes the place of the session's."""
    monkeypatch.setenv("DETCLIPV2_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def subprocess_environment(s3_environment: dict[str, str]) -> dict[str, str]:
    """For a command in a process of its own."""
    repository = Path(__file__).resolve().parents[2]
    return {**os.environ, **s3_environment, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def web() -> Iterator[Web]:
    with Web().serving() as web:
        yield web


@pytest.fixture
def page() -> type[Page]:
    return Page


@pytest.fixture
def make_image() -> Callable[..., bytes]:
    """Encode an image whose left half is red and right half is blue."""

    def encode(*, format: str = "JPEG", size: tuple[int, int] = (80, 60), mode: str = "RGB", **options: Any) -> bytes:
        image = Image.new("RGB", size, "blue")
        image.paste("red", (0, 0, size[0] // 2, size[1]))
        buffer = io.BytesIO()
        image.convert(mode).save(buffer, format=format, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture
def images() -> Callable[..., pa.Table]:
    """An IMAGES table of rows that differ from a good one as given."""

    def table(rows: list[dict[str, Any]]) -> pa.Table:
        filled = [
            {
                "key": f"{i:016x}",
                "url": f"http://a.test/{i}.jpg",
                "caption": "a red apple",
                "source": "test",
                "width": 320,
                "height": 320,
                "original_width": 640,
                "original_height": 640,
                "sha256": f"{i:064x}",
                "phash": f"{i * 0x0101010101010101:016x}",
            }
            | row
            for i, row in enumerate(rows)
        ]
        return pa.Table.from_pylist(filled, schema=IMAGES)

    return table


@pytest.fixture
def golden() -> Callable[[Any, list[dict[str, Any]]], None]:
    """Compare what a stage gave with what it gave when its version was last bumped. UPDATE_GOLDEN=1 writes anew."""

    def check(stage: Any, rows: list[dict[str, Any]]) -> None:
        path = GOLDEN / f"{stage.name}.json"
        found = {"version": stage.version, "config": json.loads(json.dumps(stage.config)), "rows": rows}
        if os.environ.get("UPDATE_GOLDEN"):
            path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        wanted = json.loads(path.read_text())
        assert found == wanted, f"{stage.name} behaves otherwise: bump its version, then run this with UPDATE_GOLDEN=1"

    return check


@pytest.fixture
def file_size_limit() -> Callable[[int], AbstractContextManager[None]]:
    """Make the system refuse to write files longer than so many bytes: a failing write(2), as on a full disk."""

    @contextmanager
    def limit(num_bytes: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit


@pytest.fixture
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs {SHARED_DATA}")
    return SHARED_DATA
