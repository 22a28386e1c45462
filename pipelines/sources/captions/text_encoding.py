"""Text encodings of captions: UTF-8, or whatever a byte order mark says; anything else is refused, never guessed."""

import codecs
import gzip
import io
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


def text_lines(file: DataFile) -> Iterator[str]:
    """The lines of a text file (``.gz`` too), each with its line feed, the first without the byte order mark.

    Raises:
        ValueError: it cannot be read, or is of another encoding; the message names the line.
    """
    try:
        with file.open() as raw:
            stream = plain(raw)
            encoding = encoding_of(stream.read(4))
            stream.seek(0)
            if encoding in ("utf-16", "utf-32"):
                yield from _wide_lines(stream, encoding, file.url)
            else:
                yield from _utf8_lines(stream, file)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file.url} cannot be read to its end: {error}") from error


def plain(file: IO[bytes]) -> IO[bytes]:
    """The file's bytes from its start, unpacked where they are gzip's."""
    magic = file.read(len(_GZIP_MAGIC))
    file.seek(0)
    return cast(IO[bytes], gzip.GzipFile(fileobj=file)) if magic == _GZIP_MAGIC else file


def _utf8_lines(stream: IO[bytes], file: DataFile) -> Iterator[str]:
    for number, line in enumerate(stream, start=1):
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
        for line in io.TextIOWrapper(stream, encoding=encoding, newline="\n"):
            number += 1
            yield line
    except UnicodeError as error:
        name = encoding.upper()
        raise ValueError(
            f"{where}: row {number + 1} or one soon after it is not {name}, as its first bytes say: save it as UTF-8"
        ) from error


def _guess(file: DataFile) -> str:
    """For the message alone: a guess is right too seldom to train on."""
    with file.open() as raw:
        best = from_bytes(plain(raw).read(_BYTES_TO_GUESS_FROM)).best()
    return f" (it may be {best.encoding})" if best else ""
