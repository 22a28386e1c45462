"""COCO and LVIS: boxes from instances JSON and images from a folder."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipelines.sources.boxes.annotated_images import AnnotatedImages, Annotations
from pipelines.sources.boxes.coco_json import CocoImage, CocoIndex, NameOf, read_coco
from pipelines.sources.boxes.image_index import Entry, ImageIndex, index_images
from pipelines.sources.boxes.lvis_format import LvisCategory, NamedBox
from pipelines.sources.boxes.names import spaced
from schemas.training import Supervision


@dataclass(frozen=True, kw_only=True)
class Coco(AnnotatedImages):
    """A `pipelines.sources.source.BoxedSource` of supervision detection.

    Boxes are dropped as ``unknown_category``, ``crowd``, ``no_box`` (an annotation without one), and for the reasons of
    `AnnotatedImages`.

    Attributes:
        annotations: instances JSON with ``images``, ``annotations`` and ``categories``; an LVIS file will do.
        images: folders of the images.
    """

    annotations: Path
    images: tuple[Path, ...]

    name: str = "coco"
    supervision: ClassVar[Supervision] = "detection"
    name_of: ClassVar[NameOf] = staticmethod(spaced)  # what becomes of a category's name

    @property
    def coco(self) -> CocoIndex:
        """What the JSON says, whether an image is there or not."""
        return read_coco(self.annotations, type(self).name_of)

    @property
    def config(self) -> dict[str, Any]:
        return {**super().config, "split": self.split}

    def read_index(self) -> ImageIndex:
        coco = self.coco
        return index_images(
            (
                Entry(key=record.key, names=record.names, num_boxes=len(record.annotations), handle=record)
                for record in coco.images
            ),
            folders=self.images,
            digest=coco.sha256,
            vocabulary=(category.name for category in coco.categories.values()),
            where=self.annotations,
            num_orphans=coco.num_orphans,
            notes=coco.notes,
        )

    def annotate(self, handle: CocoImage) -> Annotations:
        categories = self.coco.categories
        boxes: list[NamedBox] = []
        dropped: Counter[str] = Counter()
        unboxed: list[str] = []
        for annotation in handle.annotations:
            if annotation.category_id not in categories:
                dropped["unknown_category"] += 1
            elif annotation.iscrowd:
                dropped["crowd"] += 1
                unboxed.append(categories[annotation.category_id].name)
            elif not annotation.bbox:
                dropped["no_box"] += 1
                unboxed.append(categories[annotation.category_id].name)
            else:
                x, y, width, height = annotation.bbox
                name = categories[annotation.category_id].name
                boxes.append(NamedBox(name=name, box_xyxy=(x, y, x + width, y + height)))
        return Annotations(boxes=boxes, dropped=dropped, size_px=handle.size_px, unboxed=tuple(unboxed))

    def categories(self) -> list[LvisCategory]:
        by_name = {category.name: category for category in self.coco.categories.values()}
        return [by_name[name] for name in sorted(by_name)]

    def verified(self, handle: CocoImage) -> tuple[frozenset[str] | None, frozenset[str]]:
        """COCO is annotated exhaustively; an LVIS file says itself what is verified."""
        names = {i: category.name for i, category in self.coco.categories.items()}
        absent = None if handle.absent is None else frozenset(names[i] for i in handle.absent if i in names)
        return absent, frozenset(names[i] for i in handle.not_exhaustive if i in names)


@dataclass(frozen=True, kw_only=True)
class Lvis(Coco):
    """LVIS v1: a `pipelines.sources.source.BoxedSource` of COCO's images with boxes of 1,203 categories.

    Underscores in names become spaces. An image's file is found by ``coco_url``, with or without its folder (``train2017``,
    ``val2017``). LVIS is federated: ``neg_category_ids`` and ``not_exhaustive_category_ids`` say what is verified of an
    image. A training sample has no place for either (training takes what is not boxed for absent); `CocoValidation` keeps both.
    """

    name: str = "lvis"

    def read_index(self) -> ImageIndex:
        if any(image.absent is None for image in self.coco.images):
            raise ValueError(f"{self.annotations} is no LVIS JSON: an image has no 'neg_category_ids'; read it as COCO")
        return super().read_index()
