"""Detection and grounding from ODVG files, MMDetection's format: one image a line of JSON."""

import hashlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pipelines.sources.boxes.annotated_images import AnnotatedImages, Annotations, Box
from pipelines.sources.boxes.image_index import Entry, ImageIndex, index_images
from pipelines.sources.boxes.lvis_format import NamedBox
from pipelines.sources.boxes.names import spaced
from pipelines.sources.boxes.phrase import annotated_phrase
from pipelines.sources.boxes.records import (
    ODVG_DETECTION,
    ODVG_GROUNDING,
    OdvgBbox,
    OdvgDetectionLine,
    OdvgGroundingLine,
)
from pipelines.sources.input_files import without_bom
from pipelines.sources.json_records import decode_records, text_of
from schemas.paths import open_regular
from schemas.training import Supervision

_EXPECTED = "an ODVG file has one image a line, and detection and grounding are read apart"


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
        vocabulary: dict[str, None] = {}  # in the order of the file
        for row, (place, line) in enumerate(_lines(self.annotations), start=1):
            digest.update(line)
            if not line.strip():
                continue
            file_name, annotations = self._parse(line, row)
            vocabulary.update(dict.fromkeys(box.name for box in annotations.boxes))
            handle = (row, *place)
            entries.append(Entry(key=f"{row:09d}", names=(file_name,), num_boxes=annotations.num_boxes, handle=handle))
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
        with open_regular(self.annotations) as file:
            file.seek(start)
            return self._parse(file.read(length), row)[1]

    @abstractmethod
    def _parse(self, line: bytes, row: int) -> tuple[str, Annotations]:
        """The image's file name and its annotations."""


@dataclass(frozen=True, kw_only=True)
class OdvgDetection(_Odvg):
    """A `pipelines.sources.source.BoxedSource` of supervision detection: ``detection.instances`` of ``bbox`` and ``category``.

    Boxes are dropped as ``no_box`` (an instance without one) and for the reasons of `AnnotatedImages`.
    """

    name: str = "odvg_detection"
    supervision: ClassVar[Supervision] = "detection"

    def _parse(self, line: bytes, row: int) -> tuple[str, Annotations]:
        where = f"{self.annotations}: row {row}"
        image: OdvgDetectionLine = decode_records(line, ODVG_DETECTION, where=where, expected=_EXPECTED)
        named: list[NamedBox] = []
        dropped: Counter[str] = Counter()
        for i, instance in enumerate(image.detection.instances):
            boxes = _boxes(instance.bbox, f"{where}: detection.instances[{i}].bbox")
            dropped["no_box"] += not boxes
            named += [NamedBox(name=spaced(text_of(instance.category)), box_xyxy=box) for box in boxes]
        return text_of(image.filename), Annotations(boxes=named, dropped=+dropped, size_px=image.size_px)


@dataclass(frozen=True, kw_only=True)
class OdvgGrounding(_Odvg):
    """A `pipelines.sources.source.BoxedSource` of supervision grounding: ``grounding.caption`` and ``grounding.regions``.

    A region has a ``phrase`` (or a list of its parts) and a ``bbox``, or a list of them. Boxes are dropped as ``no_phrase``
    (nothing, or a pronoun), ``no_box`` (a region without one) and for the reasons of `AnnotatedImages`.
    """

    name: str = "odvg_grounding"
    supervision: ClassVar[Supervision] = "grounding"

    def _parse(self, line: bytes, row: int) -> tuple[str, Annotations]:
        where = f"{self.annotations}: row {row}"
        image: OdvgGroundingLine = decode_records(line, ODVG_GROUNDING, where=where, expected=_EXPECTED)
        named: list[NamedBox] = []
        dropped: Counter[str] = Counter()
        for i, region in enumerate(image.grounding.regions):
            boxes = _boxes(region.bbox, f"{where}: grounding.regions[{i}].bbox")
            phrase = annotated_phrase(region.phrase if isinstance(region.phrase, str) else " ".join(region.phrase))
            if not boxes:
                dropped["no_box"] += 1
            elif phrase is None:
                dropped["no_phrase"] += len(boxes)
            else:
                named += [NamedBox(name=phrase, box_xyxy=box) for box in boxes]
        caption = image.grounding.caption
        return text_of(image.filename), Annotations(
            boxes=named, dropped=dropped, caption=caption, size_px=image.size_px
        )


def _lines(path: Path) -> Iterator[tuple[tuple[int, int], bytes]]:
    """Each line with its place: start and length in bytes."""
    try:
        with open_regular(path) as file:
            start = 0
            for line in file:
                text = line if start else without_bom(line, where=path)
                yield (start + len(line) - len(text), len(text)), text
                start += len(line)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _boxes(bbox: OdvgBbox, where: str) -> list[Box]:
    """One box, or a list of boxes, as corners; none where there is none."""
    if not bbox:
        return []
    boxes: list[Box] = []
    for box in bbox if isinstance(bbox[0], tuple) else [tuple(bbox)]:
        sides = [side for side in box if isinstance(side, float)] if isinstance(box, tuple) else []
        if not isinstance(box, tuple) or not len(sides) == len(box) == 4:
            raise ValueError(f"{where}: expected four numbers (x1, y1, x2, y2) or a list of such, got {bbox}")
        boxes.append((sides[0], sides[1], sides[2], sides[3]))
    return boxes
