"""Text encodings of captions: UTF-8, or whatever a byte order mark says; anything else is refused, never guessed."""

import codecs
import gzip
import io
import itertools
import zlib
from collections.abc import Iterator
from typing import IO, Any, cast

from charset_normalizer import from_bytes

from pipelines.sources.captions.remote_files import DataFile

# UTF-32's before UTF-16's, which begins it.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_GZIP_MAGIC = b"\x1f\x8b"
_BYTES_TO_GUESS_FROM = 65_536
MAX_TEXT_BYTES = 8192  # of a caption or URL in a table; far more than any filter or server takes
_MAX_LINE_BYTES = 2**20
_MAX_UNPACKED = 100  # bytes a byte of a .gz file; text packs to a tenth
_UNPACKED_FREE = 8 * 2**20  # whatever the size of the file


def encoding_of(start: bytes) -> str:
    """The name of the encoding of a text that begins so."""
    return next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8")


def decode_text(content: bytes) -> str:
    """The text of a small file, without its byte order mark.

    Raises:
        ValueError: it is not UTF-8, nor UTF-16 or UTF-32 with a byte order mark.
    """
    text = content.decode(encoding_of(content))
    if "\0" in text:
        raise ValueError("it has NUL characters: UTF-16 without a byte order mark")
    return text


def text_or_none(value: Any) -> str | None:
    """A string that can be stored, else None: a number is no caption; NUL and halves of surrogate pairs are no text."""
    if not isinstance(value, str) or "\0" in value:
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value


def cut(text: str) -> str:
    """The text, or so much of it as shows that it is longer than `MAX_TEXT_BYTES`: the next stage drops it, and counts it."""
    return text if len(text) <= MAX_TEXT_BYTES else text[: MAX_TEXT_BYTES + 1]


def whole_text(file: DataFile) -> str:
    """All of a text file, which may be one line.

    Raises:
        ValueError: it cannot be read, or is of another encoding.
    """
    try:
        with file.open() as raw:
            return decode_text(plain(raw, num_bytes=file.num_bytes).read())
    except UnicodeDecodeError as error:
        raise ValueError(f"{file.url} is not UTF-8{_guess(file)}, at byte {error.start}: save it as UTF-8") from error
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ValueError(f"{file.url} cannot be read to its end: {error}") from error


def text_lines(file: DataFile) -> Iterator[str]:
    """The lines of a text file (``.gz`` too), each with its line feed, the first without the byte order mark.

    Raises:
        ValueError: it cannot be read, is of another encoding, or a line is too long; the message names the line.
    """
    try:
        with file.open() as raw:
            stream = plain(raw, num_bytes=file.num_bytes)
            encoding = encoding_of(stream.read(4))
            stream.seek(0)
            if encoding in ("utf-16", "utf-32"):
                yield from _wide_lines(stream, encoding, file.url)
            else:
                yield from _utf8_lines(stream, file)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file.url} cannot be read to its end: {error}") from error


def plain(file: IO[bytes], *, num_bytes: int) -> IO[bytes]:
    """The file's bytes from its start, unpacked where they are gzip's; ``num_bytes`` is its size as it lies there.

    Reading raises OSError where it unpacks to what no text or tar packs so small.
    """
    magic = file.read(len(_GZIP_MAGIC))
    file.seek(0)
    if magic != _GZIP_MAGIC:
        return file
    return cast(IO[bytes], io.BufferedReader(_Unpacked(file, max_bytes=_UNPACKED_FREE + _MAX_UNPACKED * num_bytes)))


class _Unpacked(io.RawIOBase):
    """A gzip file that ends with an error where it is a bomb."""

    def __init__(self, file: IO[bytes], *, max_bytes: int) -> None:
        self._gzip, self._max_bytes = gzip.GzipFile(fileobj=file), max_bytes

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._gzip.read(len(buffer))
        if self._gzip.tell() > self._max_bytes:
            raise OSError(f"it unpacks to more than {self._max_bytes} bytes, which its size does not warrant")
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._gzip.seek(offset, whence)

    def tell(self) -> int:
        return self._gzip.tell()


def _utf8_lines(stream: IO[bytes], file: DataFile) -> Iterator[str]:
    for number in itertools.count(1):
        line = stream.readline(_MAX_LINE_BYTES + 1)
        if not line:
            return
        if len(line) > _MAX_LINE_BYTES:
            raise ValueError(
                f"{file.url}: row {number} has more than {_MAX_LINE_BYTES} bytes: no row of a table is so long"
            )
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{file.url}: row {number} is not UTF-8{_guess(file)}: save it as UTF-8") from error
        if "\0" in text:
            raise ValueError(f"{file.url}: row {number} has a NUL character (UTF-16 without a mark?): save it as UTF-8")
        yield text


def _wide_lines(stream: IO[bytes], encoding: str, where: str) -> Iterator[str]:
    number = 0
    try:
        text = io.TextIOWrapper(stream, encoding=encoding, newline="\n")
        while line := text.readline(_MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > _MAX_LINE_BYTES:
                raise ValueError(f"{where}: row {number} has more than {_MAX_LINE_BYTES} characters: no row is so long")
            yield line
    except UnicodeError as error:
        name = encoding.upper()
        raise ValueError(
            f"{where}: row {number + 1} or one soon after it is not {name}, as its first bytes say: save it as UTF-8"
        ) from error


def _guess(file: DataFile) -> str:
    """For the message alone: a guess is right too seldom to train on."""
    with file.open() as raw:
        best = from_bytes(plain(raw, num_bytes=file.num_bytes).read(_BYTES_TO_GUESS_FROM)).best()
    return f" (it may be {best.encoding})" if best else ""
