"""Opens shards: a file of this machine, or whatever URL fsspec has a client for (``s3://``, ``gs://``, ...)."""

import re
from collections.abc import Iterable, Iterator
from typing import IO, Any

import fsspec


def open_shard(url: str) -> IO[bytes]:
    """Open a shard for reading from its beginning to its end.

    webdataset's own opener knows few object stores, and takes ``pipe:...`` for a command to run.

    Args:
        url: a path, or a URL with ``://``.

    Raises:
        ValueError: it is a command, or a URL that no client is installed for.
        OSError: it cannot be opened.
    """
    if "://" not in url:
        scheme = re.match(r"[a-zA-Z][\w+.-]+:", url)
        if scheme:
            raise ValueError(
                f"shard {url!r}: {scheme[0]} is refused: a shard is a path, or a URL such as s3://bucket/x.tar"
            )
        return open(url, "rb")
    try:
        return fsspec.open(url, "rb").open()
    except (ImportError, ValueError) as error:
        raise ValueError(f"shard {url}: {error}; s3:// needs the package s3fs, gs:// gcsfs, az:// adlfs") from error


def opened(urls: Iterable[str]) -> Iterator[dict[str, Any]]:
    """What ``webdataset.tariterators.tar_file_expander`` reads: shards as streams, each closed when the next one is asked for."""
    for url in urls:
        with open_shard(url) as stream:
            yield {"url": url, "stream": stream}
