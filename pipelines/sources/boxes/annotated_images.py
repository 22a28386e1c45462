"""Annotated images: a folder of images with boxes from an annotation file, whatever its format."""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, ClassVar

from detclipv2.image_decoding import ImageDecodingError, read_image_file
from pipelines.sources.boxes.image_index import ImageIndex, Split
from pipelines.sources.boxes.lvis_format import LvisCategory, NamedBox
from pipelines.sources.boxes.side_resizer import SideResizer
from pipelines.sources.held_out_images import HeldOutImages
from pipelines.sources.source import ResizeAll, resize_here
from schemas.manifest import canonical_json, sha256_hex
from schemas.source_images import BoxedImage, LostBoxes, StoredImage
from schemas.training import Supervision, TrainingSample

Box = tuple[float, float, float, float]
Size = tuple[int, int]  # width, height
MIN_BOX_SIDE_PX = 1.0
_ROUNDING_PX = 1e-6  # x + width - x is not width


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """What an annotation file says of one image, in pixels of its file turned upright."""

    boxes: list[NamedBox]
    is_relative: bool = False  # boxes are in shares of the image's width and height
    dropped: Mapping[str, int] = field(default_factory=dict)  # boxes of no use whatever the image is, by reason
    caption: str | None = None
    size_px: Size | None = None  # of the image that was annotated, where the file says it
    unboxed: tuple[str, ...] = ()  # names of objects that are there but among those of no use: a crowd, a difficult one

    @property
    def num_boxes(self) -> int:
        """Those of no use, too."""
        return len(self.boxes) + sum(self.dropped.values())


def distinct_boxes(boxes: list[NamedBox], dropped: Counter[str], *, caption: str, size_px: Size | None) -> Annotations:
    """Annotations without the boxes that are there twice, which count as ``duplicate_box``."""
    distinct = list(dict.fromkeys(boxes))
    duplicates = Counter(duplicate_box=len(boxes) - len(distinct))
    return Annotations(boxes=distinct, dropped=+(dropped + duplicates), caption=caption, size_px=size_px)


@dataclass(frozen=True, kw_only=True)
class AnnotatedImages(ABC):
    """A `pipelines.sources.source.BoxedSource` but for the format, which a subclass knows.

    Dropped boxes are counted by reason: ``image_missing``, ``image_unreadable``, ``quarantined`` and ``held_out`` (all boxes of
    an image whose file is not there, cannot be decoded, crashes its decoder, or is kept for evaluation), ``size_mismatch`` (all
    boxes of an image of another size than the annotated one: they belong elsewhere), ``box_outside_image``, ``box_empty`` (less
    than a pixel wide or high), ``box_not_finite``, and those of the format. Boxes of images that were left out count with a
    neighbour of the same range.

    One file is one image: in detection the boxes of several entries of a file are put together, less those that are there
    twice (``duplicate_box``).

    Attributes:
        max_side_px: longer images are made smaller, with their boxes.
        held_out: images that must not be trained on.
        split: all images, or every fifth ("held_out"), or the others ("train"); see `ImageIndex.choose`.
    """

    max_side_px: int = 1333
    held_out: HeldOutImages | None = None
    split: Split = "all"

    name: str
    supervision: ClassVar[Supervision]

    @abstractmethod
    def read_index(self) -> ImageIndex:
        """All images, whatever ``split`` and ``held_out`` leave out; called once a process. See `index_images`."""

    @abstractmethod
    def annotate(self, handle: Any) -> Annotations:
        """Of the image with this handle of the index."""

    def spelled(self, handle: Any) -> Annotations:
        """`annotate`, each concept in the spelling of the vocabulary."""
        annotations, spelling = self.annotate(handle), index_of(self).respelled
        if not spelling:
            return annotations
        boxes = [replace(box, name=spelling.get(box.name, box.name)) for box in annotations.boxes]
        return replace(
            annotations, boxes=boxes, unboxed=tuple(spelling.get(name, name) for name in annotations.unboxed)
        )

    @property
    def config(self) -> dict[str, Any]:
        """Annotations count by content, images by name and size: a build that has nothing to do must not read them."""
        index = index_of(self)
        sizes = [[key, path.name, path.stat().st_size] for key, path in zip(index.keys, index.paths, strict=True)]
        config = {
            "annotations_sha256": index.digest,
            "pictures_sha256": sha256_hex(canonical_json(sizes)),
            "max_side_px": self.max_side_px,
        }
        if self.held_out is not None:
            config["held_out"] = {**self.held_out.config, "num_pictures_by_name": index.num_held_out}
        if self.split != "all":
            config["split"] = self.split
        return config

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for people on what was found odd, though not wrong enough to stop."""
        return index_of(self).notes

    def categories(self) -> list[LvisCategory]:
        """What the names of the vocabulary stand for."""
        return [LvisCategory(name=name, definition="", synonyms=(name,)) for name in self.vocabulary()]

    def verified(self, handle: Any) -> tuple[frozenset[str] | None, frozenset[str]]:
        """The names verified to be absent from an image (None: all that are not annotated), and those not boxed completely."""
        return None, frozenset()

    def __len__(self) -> int:
        return len(index_of(self).keys)

    def vocabulary(self) -> list[str]:
        return list(index_of(self).vocabulary)

    @property
    def resizer(self) -> SideResizer:
        """What is stored of an image."""
        return SideResizer(
            max_side_px=self.max_side_px, has_phash=self.held_out is not None and bool(self.held_out.phashes)
        )

    def read(self, start: int, stop: int, *, resize_all: ResizeAll = resize_here) -> Iterator[BoxedImage | LostBoxes]:
        """The images of the positions ``start`` to ``stop``, the latter excluded, less those that cannot be used.

        Where none of them can, what was lost comes alone.
        """
        index = index_of(self)
        lost = Counter(index.lost_boxes if start == 0 else {})
        waiting: BoxedImage | None = None  # until it is known what is lost after it
        for (position, is_held_out), stored in resize_all(self.resizer, self._files(index, start, stop)):
            parts = [self.spelled(handle) for handle in index.handles[position]]
            reason = self._reason(stored, is_held_out=is_held_out)
            if isinstance(stored, str) or reason is not None:
                lost[reason or "image_unreadable"] += sum(part.num_boxes for part in parts)
                continue
            if waiting is not None:
                yield _with_lost(waiting, lost)
                lost = Counter()
            waiting = self._boxed_image(index.keys[position], stored, parts)
        if waiting is not None:
            yield _with_lost(waiting, lost)
        elif any(lost.values()):
            yield LostBoxes(dropped_boxes=dict(+lost))

    def _files(self, index: ImageIndex, start: int, stop: int) -> Iterator[tuple[tuple[int, bool], bytes | str]]:
        """Position, whether the file is held out, and its content or the reason why there is none."""
        for position in range(start, min(stop, len(index.keys))):
            try:
                content = read_image_file(index.paths[position])
            except ImageDecodingError as error:
                yield (position, False), error.reason
            else:
                yield (position, self.held_out is not None and self.held_out.has_bytes(content)), content

    def _reason(self, stored: StoredImage | str, *, is_held_out: bool) -> str | None:
        """Why an image cannot be used, if it cannot."""
        if isinstance(stored, str):
            return "quarantined" if stored == "quarantined" else "image_unreadable"
        is_near = stored.phash is not None and self.held_out is not None and self.held_out.is_near([stored.phash])[0]
        return "held_out" if is_held_out or is_near else None

    def _boxed_image(self, key: str, stored: StoredImage, parts: Sequence[Annotations]) -> BoxedImage:
        """Of the annotations of all entries of the image."""
        size, stored_size = (stored.original_width, stored.original_height), (stored.width, stored.height)
        dropped: Counter[str] = Counter()
        boxes: list[Box] = []
        names: list[str] = []
        for part in parts:
            before = set(zip(names, boxes, strict=True))
            dropped.update(part.dropped)
            is_other_size = part.size_px is not None and part.size_px != size
            for box in part.boxes:
                box_xyxy = _scale(box.box_xyxy, (1, 1), size) if part.is_relative else box.box_xyxy
                clipped = "size_mismatch" if is_other_size else fit_box(box_xyxy, size)
                if isinstance(clipped, str):
                    dropped[clipped] += 1
                elif (box.name, scaled := _fit(clipped, size, stored_size)) in before:
                    dropped["duplicate_box"] += 1
                else:
                    boxes.append(scaled)
                    names.append(box.name)
        concepts = list(dict.fromkeys(names)) if self.supervision == "grounding" else sorted(set(names))
        sample = TrainingSample(
            supervision=self.supervision,
            width=stored.width,
            height=stored.height,
            concepts=concepts,
            boxes_xyxy=boxes,
            labels=[concepts.index(name) for name in names],
            caption=parts[0].caption,
        )
        return BoxedImage(key=key, jpeg=stored.jpeg, sample=sample, dropped_boxes=dict(+dropped))


@lru_cache(maxsize=64)
def index_of(source: AnnotatedImages) -> ImageIndex:
    """The index of a source, made once a process: what its annotations and folders have, less what it leaves out."""
    if source.split == "all" and source.held_out is None:
        return source.read_index()
    whole = index_of(replace(source, split="all", held_out=None))
    return whole.choose(split=source.split, held_out=source.held_out)


def fit_box(box_xyxy: Box, size: Size) -> Box | str:
    """A box clipped to an image of ``size``, or the reason why nothing is left of it."""
    x1, y1, x2, y2 = box_xyxy
    if not all(map(math.isfinite, box_xyxy)):
        return "box_not_finite"
    if min(x2 - x1, y2 - y1) < MIN_BOX_SIDE_PX - _ROUNDING_PX:
        return "box_empty"
    clipped = max(0.0, x1), max(0.0, y1), min(float(size[0]), x2), min(float(size[1]), y2)
    if min(clipped[2] - clipped[0], clipped[3] - clipped[1]) < MIN_BOX_SIDE_PX - _ROUNDING_PX:
        return "box_outside_image"
    return clipped


def _with_lost(image: BoxedImage, lost: Mapping[str, int]) -> BoxedImage:
    return replace(image, dropped_boxes=dict(+(Counter(image.dropped_boxes) + Counter(lost)))) if lost else image


def _scale(box: Box, before: Size, after: Size) -> Box:
    """A box of an image of size ``before`` in the same image of size ``after``."""
    x, y = after[0] / before[0], after[1] / before[1]
    return box[0] * x, box[1] * y, box[2] * x, box[3] * y


def _fit(box: Box, before: Size, after: Size) -> Box:
    """As `_scale`, for a box inside the image, which stays inside."""
    x1, y1, x2, y2 = _scale(box, before, after)
    return x1, y1, min(x2, after[0]), min(y2, after[1])
