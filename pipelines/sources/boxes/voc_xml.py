"""Pascal-VOC annotation XML, as VOC itself, labelImg and Flickr30k Entities write it."""

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from pipelines.sources.boxes.annotated_images import Box, Size
from pipelines.sources.input_files import read_text


@dataclass(frozen=True, kw_only=True)
class VocObject:
    """One ``object``. The box has continuous coordinates from 0, or is None where there is none."""

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
    """Read one annotation file.

    VOC counts pixels from 1 and includes the last one: the box from pixel 1 to pixel 10 is 0 to 10 here.

    Raises:
        ValueError: it cannot be read, is no such XML, or lacks a name or a side of a box.
    """
    text = read_text(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError(f"{path} declares a document type, which no annotation needs")
    try:
        root = ET.fromstring(text)
    except ET.ParseError as error:
        raise ValueError(f"{path} is not XML: {error}") from error
    if root.tag != "annotation":
        raise ValueError(f"{path} begins with <{root.tag}>; Pascal-VOC XML begins with <annotation>")
    return VocAnnotation(
        text=text,
        file_name=(root.findtext("filename") or "").strip() or None,
        size_px=_size(root),
        objects=tuple(_object(element, f"{path}: object {i}") for i, element in enumerate(root.iter("object"))),
    )


def _size(root: ET.Element) -> Size | None:
    """None where the file has none, or zeros as some tools write."""
    sides = [(root.findtext(f"size/{name}") or "").strip() for name in ("width", "height")]
    if not all(side.isdecimal() and int(side) for side in sides):
        return None
    return int(sides[0]), int(sides[1])


def _object(element: ET.Element, where: str) -> VocObject:
    names = tuple(name.text.strip() for name in element.findall("name") if name.text and name.text.strip())
    if not names:
        raise ValueError(f"{where} has no <name>")
    is_difficult = (element.findtext("difficult") or "0").strip() == "1"
    bndbox = element.find("bndbox")
    if bndbox is None:
        return VocObject(names=names, box_xyxy=None, is_difficult=is_difficult, is_empty=False)
    x1, y1, x2, y2 = (_number(bndbox, side, where) for side in ("xmin", "ymin", "xmax", "ymax"))
    is_empty = x2 <= x1 or y2 <= y1
    return VocObject(names=names, box_xyxy=(x1 - 1, y1 - 1, x2, y2), is_difficult=is_difficult, is_empty=is_empty)


def _number(bndbox: ET.Element, side: str, where: str) -> float:
    text = bndbox.findtext(side)
    try:
        return float(text or "")
    except ValueError as error:
        raise ValueError(f"{where} has the {side} {text!r}; it must be a number of pixels") from error
