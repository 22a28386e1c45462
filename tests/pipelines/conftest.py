"""A real S3 server on loopback, in a process of its own."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from upath import UPath


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
