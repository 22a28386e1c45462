"""Ready-made WebDataset shards of images with captions, such as the mirrors of Conceptual Captions: nothing to download.

A shard is read as a stream and never unpacked: no name in it becomes a path, links and devices are passed over, and its
size, its members and their number are capped.
"""

import gzip
import io
import json
import math
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any, cast

from pipelines.sources.captions.remote_files import DataFile, find_files
from schemas.source_images import ImagePair
from schemas.tables import SCORES

_IMAGES = ("jpg", "jpeg", "png", "webp")
_TEXTS = ("txt", "json")
_MAX_TEXT_BYTES = 2**20
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, kw_only=True)
class WebDatasetMirror:
    """A `pipelines.sources.source.ImagePairSource`: ``<key>.jpg`` with ``<key>.txt``, ``<key>.json`` or both.

    The caption is the text file's, else ``caption`` of the JSON; the URL is ``url`` of the JSON, else
    ``webdataset://<source>/<shard>/<key>``, so that a pair has its identity without one. ``similarity`` and ``punsafe`` are
    those of the JSON, in any case.

    Attributes:
        path: a tar (``.gz`` too), a folder or a glob of them, local or an fsspec URL.
        name: of the source, such as "cc3m_wds".
        max_image_bytes: a larger image is ``too_large``.
        max_members: of a shard.
        max_shard_bytes: of a shard, unpacked.
    """

    path: str
    name: str
    max_image_bytes: int = 20 * 2**20
    max_members: int = 1_000_000
    max_shard_bytes: int = 64 * 2**30

    def shards(self) -> list["MirrorShard"]:
        """One a tar, sorted by name; a tar's name without ending names the shard.

        Raises:
            ValueError: there is no tar, or two have one name.
        """
        files = find_files(self.path, endings=(".tar", ".tar.gz", ".tgz"))
        shards = [MirrorShard(mirror=self, file=file) for file in files]
        names = [shard.name for shard in shards]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{self.path}: two tars give the shard {twice[0]!r}; rename one")
        return sorted(shards, key=lambda shard: shard.name)


@dataclass(frozen=True, kw_only=True)
class MirrorShard:
    """One tar of a mirror."""

    mirror: WebDatasetMirror
    file: DataFile

    @property
    def name(self) -> str:
        stem = re.sub(r"\.(tar|tar\.gz|tgz)$", "", self.file.name, flags=re.IGNORECASE)
        return f"{self.mirror.name}-{re.sub(r'[^A-Za-z0-9_-]+', '_', stem)}"

    @property
    def config(self) -> dict[str, Any]:
        """Everything that its samples depend on."""
        return {
            "source": self.mirror.name,
            "file": self.file.identity(is_whole=False),
            "max_picture_bytes": self.mirror.max_image_bytes,
        }

    def read(self) -> Iterator[ImagePair]:
        """The samples in the order of the tar.

        Raises:
            ValueError: it is no whole tar, exceeds a cap, or the members of a sample do not follow each other.
        """
        members: dict[str, bytes | None] = {}
        key, done = "", set[str]()
        for name, content in self._members():
            path = PurePosixPath(name)
            stem, _, extension = path.name.partition(".")
            member_key = (path.parent / stem).as_posix()
            if member_key != key:
                if members:
                    yield self._pair(key, members)
                done.add(key)
                key, members = member_key, {}
                if key in done:
                    raise ValueError(
                        f"{self.file.url}: the members of {key!r} do not follow each other; pack it again, sorted by name"
                    )
            members[extension.lower()] = content
        if members:
            yield self._pair(key, members)

    def _members(self) -> Iterator[tuple[str, bytes | None]]:
        """Name and content of every plain file; None stands for one of a kind that is not read, or too large."""
        with self.file.open() as raw:
            stream = _Stream(_plain(raw), max_bytes=self.mirror.max_shard_bytes, where=self.file.url)
            try:
                with tarfile.open(fileobj=stream, mode="r|", errors="replace") as tar:
                    for number, member in enumerate(tar):
                        if number >= self.mirror.max_members:
                            raise ValueError(f"{self.file.url} has more than {self.mirror.max_members} members")
                        tar.members = []  # type: ignore[attr-defined]  # else every header stays in memory
                        if member.isreg():
                            yield member.name, self._content(tar, member)
                    end = tar.offset
                stream.check_end(end)
            except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
                raise ValueError(f"{self.file.url} is no whole tar ({error}): fetch it again") from error

    def _content(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
        extension = member.name.rpartition(".")[2].lower()
        cap = self.mirror.max_image_bytes if extension in _IMAGES else _MAX_TEXT_BYTES
        if extension not in (*_IMAGES, *_TEXTS) or member.size > cap:
            return None
        file = tar.extractfile(member)
        assert file is not None  # a plain file
        return file.read()

    def _pair(self, key: str, members: dict[str, bytes | None]) -> ImagePair:
        meta = _meta(members.get("json"))
        url = meta.get("url")
        text = members.get("txt")
        caption = meta.get("caption") if text is None else text.decode(errors="replace")
        extension = next((extension for extension in _IMAGES if extension in members), None)
        image = None if extension is None else members[extension]
        reason = "image_missing" if extension is None else "too_large" if image is None else None
        return ImagePair(
            url=url if isinstance(url, str) and url else f"webdataset://{self.mirror.name}/{self.file.name}/{key}",
            caption=caption.strip("\r\n") if isinstance(caption, str) else None,
            image=image,
            drop_reason=reason,
            scores=_scores(meta),
        )


class _Stream(io.RawIOBase):
    """Counts what is read and remembers its end."""

    def __init__(self, file: IO[bytes], *, max_bytes: int, where: str) -> None:
        self._file, self._max_bytes, self._where = file, max_bytes, where
        self._num_bytes = 0
        self._tail = b""

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self._num_bytes += len(content)
        if self._num_bytes > self._max_bytes:
            raise ValueError(f"{self._where} unpacks to more than {self._max_bytes} bytes")
        self._tail = (self._tail + content)[-4 * tarfile.RECORDSIZE :]
        return content

    def check_end(self, offset: int) -> None:
        """``tarfile`` ends without a word at a cut or a broken header; a whole tar has two or more zero blocks, and no more.

        It stopped at ``offset``, within its last read, which is in the tail.
        """
        rest = self._tail[offset - self._num_bytes :] if offset < self._num_bytes else b""
        num_zeros, is_zero = len(rest), not any(rest)
        while content := self.read(2**20):
            num_zeros += len(content)
            is_zero = is_zero and not any(content)
        if not is_zero or num_zeros < 2 * tarfile.BLOCKSIZE:
            raise ValueError(f"{self._where} is cut off or damaged at byte {offset}: fetch it again")


def _plain(file: IO[bytes]) -> IO[bytes]:
    magic = file.read(len(_GZIP_MAGIC))
    file.seek(0)
    return cast(IO[bytes], gzip.GzipFile(fileobj=file)) if magic == _GZIP_MAGIC else file


def _scores(meta: dict[str, Any]) -> dict[str, float]:
    """Those of the JSON that are numbers (in Python's JSON, NaN and the infinities are floats, too, and say nothing)."""
    known = {name.strip().lower(): value for name, value in meta.items()}
    scores = {name: known[name] for name in SCORES if isinstance(known.get(name), int | float)}
    return {name: float(value) for name, value in scores.items() if math.isfinite(value)}


def _meta(content: bytes | None) -> dict[str, Any]:
    try:
        meta = json.loads(content or b"{}")
    except ValueError:
        return {}
    return meta if isinstance(meta, dict) else {}
