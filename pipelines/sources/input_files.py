"""Text and JSON files of sources with boxes, read with errors that name the file, and JPEGs to store."""

import codecs
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from schemas.paths import is_inside, read_regular


def read_bytes(path: Path) -> bytes:
    """The content of a text file in UTF-8, without the mark at its beginning (BOM), lines ending as Unix ends them.

    Raises:
        ValueError: it cannot be read, is no regular file, or is in UTF-16.
    """
    try:
        content = read_regular(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    content = without_bom(content, where=path)
    return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in content else content


def check_inside(path: Path, folders: Iterable[Path], *, where: Path | str, fix: str = "leave it out") -> None:
    """Refuse a file that a stranger's annotations name, or a link among them leads to, outside of ``folders``.

    Raises:
        ValueError: it lies elsewhere.
    """
    if not is_inside(path, folders):
        raise ValueError(f"{where}: {str(path)!r:.300} leads out of its folder: {fix}")


def without_bom(content: bytes, *, where: Path | str) -> bytes:
    """The beginning of a text without the byte order mark that Windows writes.

    Raises:
        ValueError: it is in UTF-16.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content[:4]:
        raise ValueError(f"{where} is in UTF-16: save it as UTF-8")
    return content.removeprefix(codecs.BOM_UTF8)


def utf8_text(content: bytes, *, where: Path | str) -> str:
    """Text of bytes in UTF-8.

    Raises:
        ValueError: they are in another encoding; the message has the row of the first byte that shows it.
    """
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        row = f" in row {before.count(chr(10)) + 1}" if b"\n" in content.rstrip() else ""
        after = before.rpartition("\n")[2][-20:]
        raise ValueError(
            f"{where} is not UTF-8: byte 0x{content[error.start]:02x}{row}, after {after!r}; save it as UTF-8"
        ) from error


def read_text(path: Path) -> str:
    """The content of an annotation file; see `read_bytes`.

    Raises:
        ValueError: it cannot be read, or is in another encoding.
    """
    return utf8_text(read_bytes(path), where=path)


def parse_json(text: str, *, path: Path | str) -> Any:
    """The content of a JSON file; a whole number of thousands of digits is a float, infinite.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text, parse_int=whole_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def whole_number(digits: str) -> int | float:
    """A float where the number has more digits than Python reads of a whole one, 4,300."""
    return int(digits) if len(digits) <= 4300 else float(digits)


def encode_jpeg(image: Image.Image, *, quality: int) -> bytes:
    """JPEG bytes of an image."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()
