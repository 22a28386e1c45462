"""Shards are read from wherever fsspec reads, and a shard is never a command."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from detclipv2.config import SupervisionConfig
from detclipv2.data.loader import Stream
from detclipv2.data.opener import open_shard
from detclipv2.data.tar_shards import Shard


def test_a_path_and_urls(tmp_path: Path) -> None:
    (tmp_path / "a b.tar").write_bytes(b"content")
    fsspec.filesystem("memory").pipe_file("/shards/a.tar", b"in memory")

    for url, content in (
        (str(tmp_path / "a b.tar"), b"content"),
        (f"file://{tmp_path}/a b.tar", b"content"),
        ("memory://shards/a.tar", b"in memory"),
    ):
        with open_shard(url) as file:
            assert file.read() == content


@pytest.mark.parametrize("url", ["pipe:touch {}", "PIPE:touch {}", "pipe: touch {}"])
def test_a_command_is_refused_and_not_run(url: str, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    with pytest.raises(ValueError, match=r"(?i)shard 'pipe:.*': pipe: is refused: a shard is a path, or a URL"):
        open_shard(url.format(touched))
    assert not touched.exists()


def test_a_command_in_the_form_of_a_url_has_no_client(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"shard pipe://touch x: .*pipe.*; s3:// needs the package s3fs"):
        open_shard("pipe://touch x")


def test_a_shard_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_shard(str(tmp_path / "none.tar"))


def test_the_loader_reads_an_object_store_as_it_reads_files(
    write_shard: Callable[..., Shard], annotation: Callable[..., dict[str, Any]]
) -> None:
    local = [write_shard(f"{i:05d}", {f"{i}-{n}": annotation() for n in range(4)}, size=(32, 16)) for i in range(2)]
    remote = []
    for shard in local:
        path = f"/loader/{Path(shard.url).name}"
        fsspec.filesystem("memory").pipe_file(path, Path(shard.url).read_bytes())
        remote.append(replace(shard, url=f"memory:/{path}"))

    def keys(shards: list[Shard]) -> list[str]:
        config = SupervisionConfig(batch_size=4, image_size=32, num_concepts=4)
        stream = Stream(
            supervision="detection", shards=shards, config=config, vocabulary=["cat"], seed=0, rank=0, world_size=1
        )
        with closing(stream.batches()) as batches:
            return [key for _ in range(4) for key in next(batches).keys]

    assert keys(remote) == keys(local)
