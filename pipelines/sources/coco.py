"""Pictures with boxes from COCO-style instances JSON and a folder of pictures, for training and for validation."""

import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image, ImageOps, UnidentifiedImageError

from pipelines.sources.coco_json import CocoIndex, CocoPicture, Split, read_index
from pipelines.sources.lvis_format import LvisPicture, NamedBox, lvis_annotations
from pipelines.sources.source import BoxedImage
from schemas.manifest import canonical_json, sha256_hex
from schemas.training import Supervision, TrainingSample

Box = tuple[float, float, float, float]
MIN_BOX_SIDE_PX = 1.0
JPEG_QUALITY = 95


@dataclass(frozen=True, kw_only=True)
class Coco:
    """A `pipelines.sources.source.BoxedSource` of supervision detection.

    Dropped boxes are counted by reason: ``picture_missing`` (its file is not in the folder), ``unknown_category``, ``crowd``,
    ``box_outside_image`` and ``box_empty`` (less than a pixel wide or high).

    Attributes:
        annotations: instances JSON with ``images``, ``annotations`` and ``categories``; an LVIS file will do.
        images: folder of the pictures.
        max_side_px: longer pictures are made smaller, with their boxes.
        split: all pictures, or every fifth in the order of their ids ("held_out"), or the others ("train").
    """

    annotations: Path
    images: Path
    max_side_px: int = 1333
    split: Split = "all"

    name: ClassVar[str] = "coco"
    supervision: ClassVar[Supervision] = "detection"

    @property
    def index(self) -> CocoIndex:
        return read_index(self.annotations, self.images, self.split)

    @property
    def config(self) -> dict[str, Any]:
        """The JSON counts by its content, the pictures by name and size: a build that has nothing to do must not read them."""
        sizes = [[picture.key, picture.path.name, picture.path.stat().st_size] for picture in self.index.pictures]
        return {
            "annotations_sha256": self.index.sha256,
            "pictures_sha256": sha256_hex(canonical_json(sizes)),
            "max_side_px": self.max_side_px,
            "split": self.split,
        }

    def __len__(self) -> int:
        return len(self.index.pictures)

    def vocabulary(self) -> list[str]:
        return sorted({category.name for category in self.index.categories.values()})

    def read(self, start: int, stop: int) -> Iterator[BoxedImage]:
        """The pictures of the positions ``start`` to ``stop``, the latter excluded.

        Raises:
            ValueError: a picture cannot be decoded.
        """
        for picture in self.index.pictures[start:stop]:
            yield self._boxed_image(picture)

    def _boxed_image(self, picture: CocoPicture) -> BoxedImage:
        image = _decode(picture.path)
        small = _shrink(image, max_side_px=self.max_side_px)
        dropped = Counter({"picture_missing": picture.num_lost_boxes})
        boxes: list[Box] = []
        names: list[str] = []
        for annotation in picture.annotations:
            reason = self._drop_reason(annotation, image.size)
            if reason is None:
                boxes.append(_scale(_clip(annotation["bbox"], image.size), image.size, small.size))
                names.append(self.index.categories[annotation["category_id"]].name)
            else:
                dropped[reason] += 1
        concepts = sorted(set(names))
        sample = TrainingSample(
            supervision="detection",
            width=small.width,
            height=small.height,
            concepts=concepts,
            boxes_xyxy=boxes,
            labels=[concepts.index(name) for name in names],
        )
        return BoxedImage(key=picture.key, jpeg=_encode(small), sample=sample, dropped_boxes=dict(+dropped))

    def _drop_reason(self, annotation: dict[str, Any], size: tuple[int, int]) -> str | None:
        if annotation["category_id"] not in self.index.categories:
            return "unknown_category"
        if annotation.get("iscrowd"):
            return "crowd"
        if min(annotation["bbox"][2:]) < MIN_BOX_SIDE_PX:
            return "box_empty"
        x1, y1, x2, y2 = _clip(annotation["bbox"], size)
        return "box_outside_image" if min(x2 - x1, y2 - y1) < MIN_BOX_SIDE_PX else None


@dataclass(frozen=True, kw_only=True)
class CocoValidation:
    """A `pipelines.sources.source.ValidationSource`.

    COCO is annotated exhaustively: a category without an annotation in a picture is verified to be absent from it. An LVIS
    file says itself what is verified. A category with an annotation that gave no box (a crowd, a sliver) is not exhaustive there.
    """

    pictures: Coco

    name: ClassVar[str] = "coco_validation"

    @property
    def config(self) -> dict[str, Any]:
        return self.pictures.config

    def write(self, folder: Path, *, train_image_counts: dict[str, int]) -> int:
        """Write ``annotations.json`` and ``images/``; see `pipelines.sources.source.ValidationSource`."""
        index = self.pictures.index
        (folder / "images").mkdir(parents=True, exist_ok=True)
        pictures = []
        for picture, image in zip(index.pictures, self.pictures.read(0, len(index.pictures)), strict=True):
            pictures.append(self._lvis_picture(picture, image))
            (folder / "images" / pictures[-1].file_name).write_bytes(image.jpeg)
        categories = {category.name: category for category in index.categories.values()}
        annotations = lvis_annotations(
            pictures,
            categories=[categories[name] for name in sorted(categories)],
            train_image_counts=train_image_counts,
            description="held-out pictures",
        )
        (folder / "annotations.json").write_text(canonical_json(annotations) + "\n")
        return len(pictures)

    def _lvis_picture(self, picture: CocoPicture, image: BoxedImage) -> LvisPicture:
        categories = self.pictures.index.categories
        sample = image.sample
        boxes = [
            NamedBox(name=sample.concepts[label], box_xyxy=box)
            for label, box in zip(sample.labels, sample.boxes_xyxy, strict=True)
        ]
        annotated = Counter(
            categories[annotation["category_id"]].name
            for annotation in picture.annotations
            if annotation["category_id"] in categories
        )
        unboxed = annotated - Counter(box.name for box in boxes)
        absent = categories.keys() if picture.absent is None else picture.absent & categories.keys()
        not_exhaustive = {categories[i].name for i in picture.not_exhaustive if i in categories}
        return LvisPicture(
            file_name=f"{image.key}.jpg",
            width=sample.width,
            height=sample.height,
            boxes=boxes,
            negatives=sorted({categories[i].name for i in absent} - annotated.keys()),
            not_exhaustive=sorted(not_exhaustive | unboxed.keys()),
        )


def _decode(path: Path) -> Image.Image:
    """Upright RGB."""
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be decoded: {error}") from error


def _shrink(image: Image.Image, *, max_side_px: int) -> Image.Image:
    scale = max_side_px / max(image.size)
    if scale >= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _clip(bbox: list[float], size: tuple[int, int]) -> Box:
    """COCO's x, y, width, height as corners inside a picture of ``size`` (width, height)."""
    x, y, width, height = bbox
    return max(0.0, x), max(0.0, y), min(float(size[0]), x + width), min(float(size[1]), y + height)


def _scale(box: Box, before: tuple[int, int], after: tuple[int, int]) -> Box:
    """A box of a picture of size ``before`` in the same picture of size ``after``; it stays inside."""
    x, y = after[0] / before[0], after[1] / before[1]
    return box[0] * x, box[1] * y, min(box[2] * x, after[0]), min(box[3] * y, after[1])
