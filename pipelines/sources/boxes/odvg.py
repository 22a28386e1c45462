"""Detection and grounding from ODVG files, MMDetection's format: one image a line of JSON."""

import hashlib
import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipelines.sources.boxes.annotated_images import AnnotatedImages, Annotations, Box
from pipelines.sources.boxes.coco_json import announced_size, is_numbers, spaced
from pipelines.sources.boxes.image_index import Entry, ImageIndex, index_images
from pipelines.sources.boxes.lvis_format import NamedBox
from pipelines.sources.boxes.phrase import annotated_phrase
from schemas.training import Supervision


@dataclass(frozen=True, kw_only=True)
class _Odvg(AnnotatedImages):
    """Lines are checked when the index is made and parsed again when an image is read: memory holds their places alone.

    Attributes:
        annotations: the file of JSON lines.
        images: folders of the images.
    """

    annotations: Path
    images: tuple[Path, ...]

    def read_index(self) -> ImageIndex:
        digest = hashlib.sha256()
        entries: list[Entry] = []
        vocabulary: set[str] = set()
        for row, (place, line) in enumerate(_lines(self.annotations), start=1):
            digest.update(line)
            if not line.strip():
                continue
            where = f"{self.annotations}: row {row}"
            image = _parse(line, where)
            annotations = self._annotations(image, where)
            vocabulary.update(box.name for box in annotations.boxes)
            names, handle = (str(image["filename"]),), (row, *place)
            entries.append(Entry(key=f"{row:09d}", names=names, num_boxes=annotations.num_boxes, handle=handle))
        return index_images(
            entries,
            folders=self.images,
            digest=digest.hexdigest(),
            vocabulary=vocabulary,
            where=self.annotations,
            shared="merge" if self.supervision == "detection" else "apart",
        )

    def annotate(self, handle: tuple[int, int, int]) -> Annotations:
        row, start, length = handle
        where = f"{self.annotations}: row {row}"
        with self.annotations.open("rb") as file:
            file.seek(start)
            return self._annotations(_parse(file.read(length), where), where)

    @abstractmethod
    def _annotations(self, image: dict[str, Any], where: str) -> Annotations:
        """Of one parsed line."""


@dataclass(frozen=True, kw_only=True)
class OdvgDetection(_Odvg):
    """A `pipelines.sources.source.BoxedSource` of supervision detection: ``detection.instances`` of ``bbox`` and ``category``.

    Boxes are dropped for the reasons of `AnnotatedImages`.
    """

    name: str = "odvg_detection"
    supervision: ClassVar[Supervision] = "detection"

    def _annotations(self, image: dict[str, Any], where: str) -> Annotations:
        boxes = []
        for i, instance in enumerate(_section(image, "detection", "instances", where)):
            here = f"{where}: instances[{i}]"
            category = instance.get("category")
            if not isinstance(category, str) or not category.strip():
                raise ValueError(f"{here} has the category {category!r}; it must be a name")
            boxes += [NamedBox(name=spaced(category).strip(), box_xyxy=box) for box in _boxes(instance, here)]
        return Annotations(boxes=boxes, size_px=announced_size(image))


@dataclass(frozen=True, kw_only=True)
class OdvgGrounding(_Odvg):
    """A `pipelines.sources.source.BoxedSource` of supervision grounding: ``grounding.caption`` and ``grounding.regions``.

    A region has a ``phrase`` (or a list of its parts) and a ``bbox``, or a list of them. Boxes are dropped as ``no_phrase``
    (nothing, or a pronoun) and for the reasons of `AnnotatedImages`.
    """

    name: str = "odvg_grounding"
    supervision: ClassVar[Supervision] = "grounding"

    def _annotations(self, image: dict[str, Any], where: str) -> Annotations:
        boxes: list[NamedBox] = []
        dropped: Counter[str] = Counter()
        for i, region in enumerate(_section(image, "grounding", "regions", where)):
            here = f"{where}: regions[{i}]"
            parts = region.get("phrase")
            parts = [parts] if isinstance(parts, str) else parts
            if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
                raise ValueError(f"{here} has the phrase {parts!r}; it must be text or a list of texts")
            phrase = annotated_phrase(" ".join(parts))
            if phrase is None:
                dropped["no_phrase"] += len(_boxes(region, here))
            else:
                boxes += [NamedBox(name=phrase, box_xyxy=box) for box in _boxes(region, here)]
        caption = image["grounding"].get("caption")
        if not isinstance(caption, str):
            raise ValueError(f"{where} has the caption {caption!r}; it must be text")
        return Annotations(boxes=boxes, dropped=dropped, caption=caption, size_px=announced_size(image))


def _lines(path: Path) -> Iterator[tuple[tuple[int, int], bytes]]:
    """Each line with its place: start and length in bytes."""
    try:
        with path.open("rb") as file:
            start = 0
            for line in file:
                yield (start, len(line)), line
                start += len(line)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        image = json.loads(line)
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError
        raise ValueError(f"{where} is not JSON: {error}; an ODVG file has one image a line") from error
    if not isinstance(image, dict) or "filename" not in image:
        raise ValueError(f"{where} has no 'filename'")
    return image


def _section(image: dict[str, Any], section: str, items: str, where: str) -> list[dict[str, Any]]:
    if not isinstance(image.get(section), dict):
        raise ValueError(f"{where} has no {section!r}; it has {sorted(image)}: read detection and grounding apart")
    entries = image[section].get(items)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{where}: {section!r} has no list {items!r}")
    return entries


def _boxes(entry: dict[str, Any], where: str) -> list[Box]:
    """One box, or a list of boxes, as corners."""
    value = entry.get("bbox")
    boxes: list[Any] = value if isinstance(value, list) and value and isinstance(value[0], list) else [value]
    for box in boxes:
        if not is_numbers(box, count=4):
            raise ValueError(f"{where} has the bbox {box!r}; it must be four numbers: x1, y1, x2, y2")
    return [(box[0], box[1], box[2], box[3]) for box in boxes]
