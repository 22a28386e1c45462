"""Detection from folders of images and Pascal-VOC XML: one XML an image."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pipelines.sources.boxes.annotated_images import AnnotatedImages, Annotations
from pipelines.sources.boxes.coco_json import spaced
from pipelines.sources.boxes.image_index import Entry, ImageIndex, index_images
from pipelines.sources.boxes.lvis_format import NamedBox
from pipelines.sources.boxes.voc_xml import VocAnnotation, read_voc_xml
from pipelines.sources.input_files import read_text
from schemas.manifest import canonical_json, sha256_hex
from schemas.training import Supervision

_IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")


@dataclass(frozen=True, kw_only=True)
class PascalVoc(AnnotatedImages):
    """A `pipelines.sources.source.BoxedSource` of supervision detection.

    An image is looked for by its ``<filename>`` and by the name of the XML. Truncated objects are kept. Boxes are dropped
    as ``difficult``, ``no_box``, and for the reasons of `AnnotatedImages`.

    Attributes:
        annotations: folder of the XML files (``Annotations``).
        images: folders of the images (``JPEGImages``); may be the same.
        image_set: a list of XML names without ending, one a line (``ImageSets/Main/train.txt``); None: all.
        difficult: what becomes of objects marked as hard to recognize; VOC's evaluation leaves them out.
    """

    annotations: Path
    images: tuple[Path, ...]
    image_set: Path | None = None
    difficult: Literal["drop", "keep"] = "drop"

    name: str = "pascal_voc"
    supervision: ClassVar[Supervision] = "detection"

    @property
    def config(self) -> dict[str, Any]:
        return {**super().config, "difficult": self.difficult}

    def read_index(self) -> ImageIndex:
        files = {path.stem: read_voc_xml(path) for path in self._paths()}
        entries = (
            Entry(
                key=_key(stem),
                names=tuple(filter(None, [file.file_name, *(stem + ending for ending in _IMAGE_ENDINGS)])),
                num_boxes=len(file.objects),
                handle=file,
            )
            for stem, file in files.items()
        )
        return index_images(
            entries,
            folders=self.images,
            held_out=self.held_out,
            digest=sha256_hex(canonical_json({stem: file.text for stem, file in files.items()})),
            vocabulary=(spaced(item.names[0]) for file in files.values() for item in file.objects),
            where=self.annotations,
        )

    def annotate(self, handle: VocAnnotation) -> Annotations:
        boxes: list[NamedBox] = []
        dropped: Counter[str] = Counter()
        for item in handle.objects:
            if item.box_xyxy is None:
                dropped["no_box"] += 1
            elif item.is_difficult and self.difficult == "drop":
                dropped["difficult"] += 1
            elif item.is_empty:
                dropped["box_empty"] += 1
            else:
                boxes.append(NamedBox(name=spaced(item.names[0]), box_xyxy=item.box_xyxy))
        return Annotations(boxes=boxes, dropped=dropped, size_px=handle.size_px)

    def _paths(self) -> list[Path]:
        if self.image_set is None:
            paths = sorted(self.annotations.glob("*.xml"))
        else:  # VOC's lists of one class have a second column: -1, 0 or 1
            stems = [line.split()[0] for line in read_text(self.image_set).splitlines() if line.strip()]
            paths = [self.annotations / f"{stem}.xml" for stem in sorted(set(stems))]
        if not paths:
            raise ValueError(f"{self.image_set or self.annotations} has no Pascal-VOC XML")
        return paths


def _key(stem: str) -> str:
    """The stem where it will do as a key, else what is plain of it with a hash."""
    plain = re.sub(r"[^\w-]", "_", stem, flags=re.ASCII)
    return stem if plain == stem and len(stem) <= 80 else f"{plain[:64]}-{sha256_hex(stem)[:8]}"
