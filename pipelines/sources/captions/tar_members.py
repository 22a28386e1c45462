"""Members of a stranger's tar, read as a stream and never unpacked.

No name in it becomes a path, links and devices have no content, and its size, its members and their number are capped.
"""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, cast

from pipelines.sources.captions.image_files import (
    CAPTION_ENDINGS,
    IMAGE_ENDINGS,
    MAX_CAPTION_BYTES,
    ending_of,
    is_hidden,
)
from pipelines.sources.captions.remote_files import DataFile
from pipelines.sources.captions.text_encoding import plain
from schemas.tar_headers import BoundedTarInfo

_MAX_READS_AT_END = 16  # three or four are those of a whole tar
READ_ENDINGS = (*IMAGE_ENDINGS, *CAPTION_ENDINGS, "json")


@dataclass(frozen=True, kw_only=True)
class TarMember:
    """A file, or a link to one; without content where it is of a kind that is not read, or too large.

    ``is_odd``: its header has records that cannot be read, so that it may not be what its maker meant.
    """

    name: str
    ending: str
    content: bytes | None
    is_file: bool
    is_odd: bool = False


def read_members(
    file: DataFile, *, max_members: int, max_shard_bytes: int, max_image_bytes: int
) -> Iterator[TarMember]:
    """The members of a tar (``.gz`` too) in its order, but for folders and hidden files.

    Raises:
        ValueError: it is no whole tar, or exceeds a cap.
    """
    with file.open() as raw:
        stream = _Stream(plain(raw, num_bytes=file.num_bytes), max_bytes=max_shard_bytes)
        try:
            with tarfile.open(fileobj=stream, mode="r|", errors="surrogateescape", tarinfo=BoundedTarInfo) as tar:
                for number, info in enumerate(tar):
                    if number >= max_members:
                        raise ValueError(f"it has more than {max_members} members")
                    tar.members = []  # type: ignore[attr-defined]  # else every header stays in memory
                    if not info.isdir() and not is_hidden(info.name):
                        yield _member(tar, cast(BoundedTarInfo, info), max_image_bytes)
                end = tar.offset
            stream.check_end(end)
        except Exception as error:  # a broken header raises whatever it leads to
            raise ValueError(f"{file.url} is no whole tar ({error or type(error).__name__}): fetch it again") from error


def _member(tar: tarfile.TarFile, info: BoundedTarInfo, max_image_bytes: int) -> TarMember:
    # Distinct names stay distinct, and can be stored, whatever their bytes are.
    name = info.name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    ending = ending_of(name)
    cap = max_image_bytes if ending in IMAGE_ENDINGS else MAX_CAPTION_BYTES
    is_read = ending in READ_ENDINGS and info.is_plain and info.size <= cap and not info.is_odd
    file = tar.extractfile(info) if is_read else None
    return TarMember(
        name=PurePosixPath(name).as_posix(),
        ending=ending,
        content=None if file is None else file.read(),
        is_file=info.is_plain,
        is_odd=info.is_odd,
    )


class _Stream(io.RawIOBase):
    """Counts what is read and remembers its end."""

    def __init__(self, file: IO[bytes], *, max_bytes: int) -> None:
        self._file, self._max_bytes = file, max_bytes
        self._num_bytes = self._num_reads_at_end = 0
        self._tail = b""

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self._num_bytes += len(content)
        if self._num_bytes > self._max_bytes:
            raise ValueError(f"it unpacks to more than {self._max_bytes} bytes")
        self._num_reads_at_end += not content
        if self._num_reads_at_end > _MAX_READS_AT_END:  # tarfile skips what a header announces, were it 8 EiB
            raise ValueError("it is cut off: a header announces more bytes than it has")
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
            raise ValueError(f"it is cut off or damaged at byte {offset}")
