"""Validation sets in LVIS format, written from any source of boxes with category names."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipelines.sources.boxes.annotated_images import AnnotatedImages, index_of
from pipelines.sources.boxes.lvis_format import LvisImage, NamedBox, lvis_annotations
from pipelines.sources.source import ResizeAll, ValidationCounts, resize_here
from schemas.manifest import canonical_json
from schemas.source_images import BoxedImage


@dataclass(frozen=True, kw_only=True)
class CocoValidation:
    """A `pipelines.sources.source.ValidationSource`.

    Detection data is taken as annotated exhaustively, as COCO is: a category of a source without an annotation in an image of
    that source is verified to be absent from it. An LVIS file says itself what is verified. A category with an annotation
    that gave no box (a crowd, a sliver) is not exhaustive there.

    Attributes:
        sources: of the images; at least one.
    """

    sources: tuple[AnnotatedImages, ...]

    name: ClassVar[str] = "coco_validation"

    @property
    def config(self) -> dict[str, Any]:
        first, *others = (source.config for source in self.sources)
        return first | ({"others": others} if others else {})

    def files(self) -> tuple[tuple[str, int], ...]:
        """Path and size in bytes of every image's file."""
        return tuple(file for source in self.sources for file in index_of(source).files)

    def write(
        self, folder: Path, *, train_image_counts: dict[str, int], resize_all: ResizeAll = resize_here
    ) -> ValidationCounts:
        """Write ``annotations.json`` and ``images/``; see `pipelines.sources.source.ValidationSource`."""
        (folder / "images").mkdir(parents=True, exist_ok=True)
        images: list[LvisImage] = []
        dropped: Counter[str] = Counter()
        for i, source in enumerate(self.sources):
            prefix = f"{source.name}-" if i else ""
            index = index_of(source)
            handles = dict(zip(index.keys, index.handles, strict=True))
            for image in source.read(0, len(source), resize_all=resize_all):
                dropped.update(image.dropped_boxes)
                if isinstance(image, BoxedImage):
                    file_name = f"{prefix}{image.key}.jpg"
                    images.append(_lvis_image(source, handles[image.key], image, file_name=file_name))
                    (folder / "images" / file_name).write_bytes(image.jpeg)
        categories = {category.name: category for source in self.sources for category in source.categories()}
        annotations = lvis_annotations(
            images,
            categories=[categories[name] for name in sorted(categories)],
            train_image_counts=train_image_counts,
            description="held-out images",
        )
        (folder / "annotations.json").write_text(canonical_json(annotations) + "\n")
        num_boxes = sum(len(image.boxes) for image in images)
        return ValidationCounts(num_images=len(images), num_boxes=num_boxes, dropped_boxes=dropped)


def _lvis_image(source: AnnotatedImages, handles: Sequence[Any], image: BoxedImage, *, file_name: str) -> LvisImage:
    sample = image.sample
    boxes = [
        NamedBox(name=sample.concepts[label], box_xyxy=box)
        for label, box in zip(sample.labels, sample.boxes_xyxy, strict=True)
    ]
    parts = [source.spelled(handle) for handle in handles]
    annotated_boxes = [box for part in parts for box in part.boxes]
    if len(parts) > 1:  # a box that two entries of one image have is one box
        annotated_boxes = list(dict.fromkeys(annotated_boxes))
    annotated = Counter(box.name for box in annotated_boxes) + Counter(name for part in parts for name in part.unboxed)
    absent: set[str] = set()
    not_exhaustive = set(annotated - Counter(box.name for box in boxes))
    for handle in handles:
        verified, incomplete = source.verified(handle)
        absent |= set(source.vocabulary()) if verified is None else verified
        not_exhaustive |= incomplete
    return LvisImage(
        file_name=file_name,
        width=sample.width,
        height=sample.height,
        boxes=boxes,
        negatives=sorted(absent - annotated.keys()),
        not_exhaustive=sorted(not_exhaustive),
    )
