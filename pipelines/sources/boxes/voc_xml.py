"""Pascal-VOC annotation XML, as VOC itself, labelImg, ybat and Flickr30k Entities write it."""

import codecs
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.sources.boxes.annotated_images import Box, Size
from schemas.paths import read_regular

# Python's codecs that are no encodings of text files; decoding Punycode takes the square of the length.
_NO_ENCODINGS = frozenset(
    [
        "idna",
        "punycode",
        "raw-unicode-escape",
        "unicode-escape",
        "unicode_escape",
        "raw_unicode_escape",
        "utf-7",
        "undefined",
    ]
)
_DECLARED = re.compile(rb"""\A\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w.:-]{1,40})["']""")
_HEAD_BYTES = 4096
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@dataclass(frozen=True, kw_only=True)
class VocObject:
    """One box of an ``object``, or an object without any. The box has continuous coordinates from 0."""

    names: tuple[str, ...]
    box_xyxy: Box | None
    is_difficult: bool
    is_empty: bool  # no wider or higher than its coordinates' precision


@dataclass(frozen=True, kw_only=True)
class VocAnnotation:
    """One file."""

    text: str
    file_name: str | None
    size_px: Size | None
    objects: tuple[VocObject, ...]


def read_voc_xml(path: Path) -> VocAnnotation:
    """Read one annotation file, in the encoding that it declares.

    VOC counts pixels from 1 and includes the last one: the box from pixel 1 to pixel 10 is 0 to 10 here.

    Raises:
        ValueError: it cannot be read, is no such XML, or lacks a name or a side of a box.
    """
    text = _read(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError(f"{path} declares a document type, which no annotation needs")
    try:
        root = ET.fromstring(text)
    except (ET.ParseError, ValueError) as error:  # surrogates are a ValueError
        raise ValueError(f"{path} is not XML: {error}") from error
    if root.tag != "annotation":
        raise ValueError(f"{path} begins with <{root.tag}>; Pascal-VOC XML begins with <annotation>")
    objects = enumerate(root.iter("object"))
    return VocAnnotation(
        text=text,
        file_name=(root.findtext("filename") or "").strip() or None,
        size_px=_size(root),
        objects=tuple(item for i, element in objects for item in _boxes(element, f"{path}: object {i}")),
    )


def _read(path: Path) -> str:
    try:
        content = read_regular(path)
        declared = _DECLARED.match(content[:_HEAD_BYTES])
        of_bom = next((name for bom, name in _BOMS.items() if content.startswith(bom)), None)
        name = codecs.lookup(of_bom or (declared[1].decode() if declared else "utf-8")).name
        if name in _NO_ENCODINGS:
            raise ValueError(f"it declares the encoding {name}; save it as UTF-8")
        return content.decode(name)
    except (OSError, ValueError, LookupError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _size(root: ET.Element) -> Size | None:
    """None where the file has none, or zeros as some tools write."""
    width, height = (_finite(root.findtext(f"size/{name}")) for name in ("width", "height"))
    return (round(width), round(height)) if width and height and min(width, height) >= 1 else None


def _boxes(element: ET.Element, where: str) -> Iterator[VocObject]:
    """One for each ``bndbox``: ybat writes all objects of a class as one ``object``."""
    names = tuple(name.text.strip() for name in element.findall("name") if name.text and name.text.strip())
    if not names:
        raise ValueError(f"{where} has no <name>")
    difficult = (element.findtext("difficult") or "").strip().lower()
    is_difficult = difficult in ("true", "yes") or bool(_finite(difficult))
    bndboxes = element.findall("bndbox")
    for bndbox in bndboxes:
        x1, y1, x2, y2 = (_number(bndbox, side, where) for side in ("xmin", "ymin", "xmax", "ymax"))
        is_empty = x2 <= x1 or y2 <= y1
        box = x1 - 1, y1 - 1, x2, y2
        yield VocObject(names=names, box_xyxy=box, is_difficult=is_difficult, is_empty=is_empty)
    if not bndboxes:
        yield VocObject(names=names, box_xyxy=None, is_difficult=is_difficult, is_empty=False)


def _finite(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _number(bndbox: ET.Element, side: str, where: str) -> float:
    text = bndbox.findtext(side)
    try:
        return float(text or "")
    except ValueError as error:
        raise ValueError(f"{where} has the {side} {text!r}; it must be a number of pixels") from error
