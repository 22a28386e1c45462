"""WebDataset tar shards and their indexes."""

import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detclipv2.config import Supervision
from detclipv2.data.opener import open_shard

REBUILD_HINT = "build the dataset again: only what is missing or damaged is made anew"


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """Where the samples of a tar lie, in its order, and which images are in portrait format."""

    offsets: NDArray[np.int64]  # of the first header of a sample, in bytes
    num_bytes: NDArray[np.int64]  # of its members with their headers
    is_portrait: NDArray[np.bool_]  # the image is higher than wide


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A tar file (a path, or a URL that fsspec opens), how many samples it holds, and its index."""

    url: str
    num_samples: int
    # Reads the index that was made with the shard. None: the headers of the tar are read for it.
    index: Callable[[], ShardIndex] | None = None

    def read_index(self, supervision: Supervision) -> ShardIndex:
        """The index of the shard; the format of image-text images is not looked up, since all become squares.

        Raises:
            ValueError: it does not fit the number of samples, or the tar is damaged.
            OSError: it cannot be read.
        """
        index = scan_shard(self.url, supervision=supervision) if self.index is None else self.index()
        if not len(index.offsets) == len(index.num_bytes) == len(index.is_portrait) == self.num_samples:
            raise ValueError(
                f"{self.url}: {len(index.offsets)} samples, {self.num_samples} are expected: damaged; {REBUILD_HINT}"
            )
        return index


def scan_shard(url: str, *, supervision: Supervision) -> ShardIndex:
    """The index of a tar, from its headers, and for images with boxes from the annotations.

    Raises:
        ValueError: the tar is damaged, or an annotation does not tell the size of its image.
    """
    keys, starts, ends, portrait = [""], list[int](), list[int](), list[bool]()
    try:
        with open_shard(url) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in _files(tar):
                key, suffix = key_and_suffix(member.name)
                if key != keys[-1]:
                    keys.append(key)
                    starts.append(member.offset)
                    ends.append(0)
                    portrait.append(False)
                ends[-1] = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if suffix == "json" and supervision != "image_text":
                    portrait[-1] = _is_portrait(_content(tar, member), where=f"{url}, key {key!r}")
    except tarfile.TarError as error:
        raise ValueError(f"{url} is damaged: {error}; {REBUILD_HINT}") from error
    offsets = np.array(starts, dtype=np.int64)
    return ShardIndex(
        offsets=offsets,
        num_bytes=np.array(ends, dtype=np.int64) - offsets,
        is_portrait=np.array(portrait, dtype=np.bool_),
    )


def parse_record(content: Any, *, url: str, offset: int) -> dict[str, Any]:
    """The members of one sample by suffix, with ``__key__`` and ``__url__``.

    Args:
        content: a file with the bytes of the sample in a tar.
        url: of the shard.
        offset: where the bytes begin in it.

    Raises:
        ValueError: there is no whole sample, or more than one; the message names shard and place.
    """
    record: dict[str, Any] = {"__url__": url}
    where = f"{url}, at byte {offset}"
    try:
        with tarfile.open(fileobj=content, mode="r:") as tar:
            for member in _files(tar):
                key, suffix = key_and_suffix(member.name)
                if record.setdefault("__key__", key) != key:
                    raise ValueError(f"{where}: key {key!r} after {record['__key__']!r}: not its index; {REBUILD_HINT}")
                record[suffix] = _content(tar, member)
    except tarfile.TarError as error:
        raise ValueError(f"{where}, key {record.get('__key__')!r}: damaged: {error}; {REBUILD_HINT}") from error
    return record


def key_and_suffix(name: str) -> tuple[str, str]:
    """``a.b/key.jpg`` is the member ``jpg`` of the sample ``a.b/key``: a dot ends the key, as WebDataset has it."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return f"{folder}{slash}{stem}", suffix.lower()


def _files(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    return (member for member in tar if member.isreg())


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def _is_portrait(annotation: bytes, *, where: str) -> bool:
    try:
        sizes = json.loads(annotation)
        return bool(sizes["height"] > sizes["width"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{where}: cannot be decoded: {type(error).__name__}: {error}") from error
