"""File opening: shards on this machine, or at any URL that fsspec has a client for (``s3://``, ``gs://``, ...)."""

import re
from typing import IO, Any

import fsspec


def is_url(shard: str) -> bool:
    """Whether a shard is a URL, or a path.

    Raises:
        ValueError: it is neither; what would be a command to webdataset (``pipe:...``) is refused.
    """
    if "://" in shard:
        return True
    scheme = re.match(r"[a-zA-Z][\w+.-]+:", shard)
    if scheme:
        raise ValueError(
            f"shard {shard!r}: {scheme[0]} is refused: a shard is a path, or a URL such as s3://bucket/x.tar"
        )
    return False


def open_shard(shard: str) -> IO[bytes]:
    """Open a shard for reading from its beginning to its end.

    Args:
        shard: a path, or a URL with ``://``.

    Raises:
        ValueError: it is a command, or a URL that no client is installed for.
        OSError: it cannot be opened.
    """
    if not is_url(shard):
        return open(shard, "rb")
    file_system, path = url_client(shard)
    return file_system.open(path, "rb")


def url_client(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path there.

    Raises:
        ValueError: no client is installed for URLs of this kind.
    """
    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ValueError(f"shard {url}: {error}; s3:// needs the package s3fs, gs:// gcsfs, az:// adlfs") from error
