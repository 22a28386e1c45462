"""COCO and LVIS: boxes from instances JSON and images from a folder, for training and for validation."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from pipelines.sources.boxes.annotated_images import AnnotatedImages, Annotations, index_of
from pipelines.sources.boxes.coco_json import CocoImage, CocoIndex, NameOf, Split, read_coco
from pipelines.sources.boxes.image_index import Entry, ImageIndex, index_images
from pipelines.sources.boxes.lvis_format import LvisImage, NamedBox, lvis_annotations
from pipelines.sources.boxes.names import spaced
from schemas.manifest import canonical_json
from schemas.source_images import BoxedImage
from schemas.training import Supervision


@dataclass(frozen=True, kw_only=True)
class Coco(AnnotatedImages):
    """A `pipelines.sources.source.BoxedSource` of supervision detection.

    Boxes are dropped as ``unknown_category``, ``crowd``, ``no_box`` (an annotation without one), and for the reasons of
    `AnnotatedImages`; those of images that ``split`` keeps for evaluation are ``held_out``, too.

    Attributes:
        annotations: instances JSON with ``images``, ``annotations`` and ``categories``; an LVIS file will do.
        images: folders of the images.
        split: all images, or every fifth in the order of their ids ("held_out"), or the others ("train").
    """

    annotations: Path
    images: tuple[Path, ...]
    split: Split = "all"

    name: str = "coco"
    supervision: ClassVar[Supervision] = "detection"
    name_of: ClassVar[NameOf] = staticmethod(spaced)  # what becomes of a category's name

    @property
    def coco(self) -> CocoIndex:
        """What the JSON says, whether an image is there or not."""
        return read_coco(self.annotations, self.split, type(self).name_of)

    @property
    def config(self) -> dict[str, Any]:
        return {**super().config, "split": self.split}

    @property
    def notes(self) -> tuple[str, ...]:
        return self.coco.notes

    def read_index(self) -> ImageIndex:
        coco = self.coco
        index = index_images(
            (
                Entry(key=record.key, names=record.names, num_boxes=len(record.annotations), handle=record)
                for record in coco.images
            ),
            folders=self.images,
            held_out=self.held_out,
            digest=coco.sha256,
            vocabulary=(category.name for category in coco.categories.values()),
            where=self.annotations,
            what=f"images ({self.split})",
            num_orphans=coco.num_orphans,
        )
        if self.split != "train":
            return index
        return replace(index, lost_boxes=dict(Counter(index.lost_boxes) + Counter(held_out=coco.num_elsewhere)))

    def annotate(self, handle: CocoImage) -> Annotations:
        categories = self.coco.categories
        boxes: list[NamedBox] = []
        dropped: Counter[str] = Counter()
        for annotation in handle.annotations:
            if annotation.category_id not in categories:
                dropped["unknown_category"] += 1
            elif annotation.iscrowd:
                dropped["crowd"] += 1
            elif not annotation.bbox:
                dropped["no_box"] += 1
            else:
                x, y, width, height = annotation.bbox
                name = categories[annotation.category_id].name
                boxes.append(NamedBox(name=name, box_xyxy=(x, y, x + width, y + height)))
        return Annotations(boxes=boxes, dropped=dropped, size_px=handle.size_px)


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


@dataclass(frozen=True, kw_only=True)
class CocoValidation:
    """A `pipelines.sources.source.ValidationSource`.

    COCO is annotated exhaustively: a category without an annotation in an image is verified to be absent from it. An LVIS
    file says itself what is verified. A category with an annotation that gave no box (a crowd, a sliver) is not exhaustive there.
    """

    source: Coco

    name: ClassVar[str] = "coco_validation"

    @property
    def config(self) -> dict[str, Any]:
        return self.source.config

    def write(self, folder: Path, *, train_image_counts: dict[str, int]) -> int:
        """Write ``annotations.json`` and ``images/``; see `pipelines.sources.source.ValidationSource`.

        Raises:
            ValueError: an image cannot be used: figures on fewer images would not compare with those of others.
        """
        index = index_of(self.source)
        (folder / "images").mkdir(parents=True, exist_ok=True)
        images = []
        for position, record in enumerate(index.handles):
            (image,) = self.source.read(position, position + 1)
            images.append(self._lvis_image(record, image))
            (folder / "images" / images[-1].file_name).write_bytes(image.jpeg)
        categories = {category.name: category for category in self.source.coco.categories.values()}
        annotations = lvis_annotations(
            images,
            categories=[categories[name] for name in sorted(categories)],
            train_image_counts=train_image_counts,
            description="held-out images",
        )
        (folder / "annotations.json").write_text(canonical_json(annotations) + "\n")
        return len(images)

    def _lvis_image(self, record: CocoImage, image: BoxedImage) -> LvisImage:
        categories = self.source.coco.categories
        sample = image.sample
        boxes = [
            NamedBox(name=sample.concepts[label], box_xyxy=box)
            for label, box in zip(sample.labels, sample.boxes_xyxy, strict=True)
        ]
        annotated = Counter(
            categories[annotation.category_id].name
            for annotation in record.annotations
            if annotation.category_id in categories
        )
        unboxed = annotated - Counter(box.name for box in boxes)
        absent = categories.keys() if record.absent is None else record.absent & categories.keys()
        not_exhaustive = {categories[i].name for i in record.not_exhaustive if i in categories}
        return LvisImage(
            file_name=f"{image.key}.jpg",
            width=sample.width,
            height=sample.height,
            boxes=boxes,
            negatives=sorted({categories[i].name for i in absent} - annotated.keys()),
            not_exhaustive=sorted(not_exhaustive | unboxed.keys()),
        )
