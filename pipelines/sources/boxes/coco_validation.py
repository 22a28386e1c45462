"""Validation sets in LVIS format from COCO and LVIS files."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipelines.sources.boxes.annotated_images import index_of
from pipelines.sources.boxes.coco import Coco
from pipelines.sources.boxes.coco_json import CocoImage
from pipelines.sources.boxes.lvis_format import LvisImage, NamedBox, lvis_annotations
from schemas.manifest import canonical_json
from schemas.source_images import BoxedImage


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
            categories[annotation["category_id"]].name
            for annotation in record.annotations
            if annotation["category_id"] in categories
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
