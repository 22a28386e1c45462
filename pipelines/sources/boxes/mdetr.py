"""Grounding from MDETR's JSON (GoldG: ``final_mixed_train*.json``, ``final_flickr_separateGT_train.json``)."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from pipelines.sources.boxes.annotated_images import AnnotatedImages, Annotations, Size
from pipelines.sources.boxes.coco_json import announced_size, is_numbers, parse_annotations
from pipelines.sources.boxes.image_index import Entry, ImageIndex, index_images
from pipelines.sources.boxes.lvis_format import NamedBox
from pipelines.sources.boxes.phrase import annotated_phrase
from pipelines.sources.input_files import read_text
from schemas.manifest import sha256_hex
from schemas.training import Supervision


@dataclass(frozen=True, kw_only=True)
class _Captioned:
    """An image with one caption, and its annotations."""

    caption: str
    size_px: Size | None
    annotations: tuple[dict[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Mdetr(AnnotatedImages):
    """A `pipelines.sources.source.BoxedSource` of supervision grounding.

    The JSON is COCO's, with a ``caption`` in each image and, in each annotation, ``tokens_positive``: spans of characters of
    the caption, whose texts together are the phrase. Entries of ``images`` with the same file and caption are one sample,
    under the smallest of their ids. Boxes are dropped as ``no_phrase`` (no span, a span outside the caption, or a pronoun),
    ``duplicate_box`` (the same box with the same phrase twice in a sample), ``crowd``, and for the reasons of
    `AnnotatedImages`.

    Attributes:
        annotations: the JSON.
        images: folders of the images; the mixed file needs Visual Genome's and COCO's.
    """

    annotations: Path
    images: tuple[Path, ...]

    name: ClassVar[str] = "mdetr"
    supervision: ClassVar[Supervision] = "grounding"

    def read_index(self) -> ImageIndex:
        text = read_text(self.annotations)
        content = _parse(text, self.annotations)
        of_image = defaultdict(list)
        for annotation in content["annotations"]:
            of_image[annotation["image_id"]].append(annotation)
        entries: dict[tuple[str, str], Entry] = {}
        for image in sorted(content["images"], key=lambda image: str(image["id"]).zfill(12)):
            _merge(entries, image, of_image.pop(image["id"], []))
        phrases = (box.name for entry in entries.values() for box in self.annotate(entry.handle).boxes)
        return index_images(
            entries.values(),
            folders=self.images,
            held_out=self.held_out,
            digest=sha256_hex(text),
            vocabulary=phrases,
            where=self.annotations,
            num_orphans=sum(map(len, of_image.values())),
        )

    def annotate(self, handle: _Captioned) -> Annotations:
        boxes: dict[NamedBox, None] = {}
        dropped: Counter[str] = Counter()
        for annotation in handle.annotations:
            x, y, width, height = annotation["bbox"]
            phrase = annotated_phrase(" ".join(_spans(annotation, handle.caption)))
            if annotation.get("iscrowd"):
                dropped["crowd"] += 1
            elif phrase is None:
                dropped["no_phrase"] += 1
            else:
                box = NamedBox(name=phrase, box_xyxy=(x, y, x + width, y + height))
                dropped["duplicate_box"] += box in boxes
                boxes[box] = None
        return Annotations(boxes=list(boxes), dropped=+dropped, caption=handle.caption, size_px=handle.size_px)


def _merge(entries: dict[tuple[str, str], Entry], image: dict[str, Any], annotations: list[dict[str, Any]]) -> None:
    """Add an entry of ``images``, to the one of the same file and caption if there is one."""
    identity = image["file_name"], image["caption"]
    entry = entries.get(identity)
    if entry is None:
        handle = _Captioned(caption=image["caption"], size_px=announced_size(image), annotations=())
        entry = Entry(key=str(image["id"]).zfill(12), names=(image["file_name"],), num_boxes=0, handle=handle)
    handle = replace(entry.handle, annotations=(*entry.handle.annotations, *annotations))
    entries[identity] = replace(entry, num_boxes=len(handle.annotations), handle=handle)


def _spans(annotation: dict[str, Any], caption: str) -> Iterator[str]:
    """The texts of ``tokens_positive``, in the order of the caption; none where one of them is not in it."""
    spans = sorted(annotation["tokens_positive"])
    if all(0 <= start < end <= len(caption) for start, end in spans):
        yield from (caption[start:end] for start, end in spans)


def _parse(text: str, path: Path) -> dict[str, list[dict[str, Any]]]:
    keys = {"images": ("id", "file_name", "caption"), "annotations": ("image_id", "bbox")}
    content = parse_annotations(text, path, keys=keys, expected="MDETR's JSON has images and annotations")
    for i, image in enumerate(content["images"]):
        for key in ("file_name", "caption"):
            if not isinstance(image[key], str):
                raise ValueError(f"{path}: images[{i}] has the {key} {image[key]!r}; it must be text")
        if not str(image["id"]).isalnum():
            raise ValueError(f"{path}: images[{i}] has the id {image['id']!r}; it must be letters and digits")
    for i, annotation in enumerate(content["annotations"]):
        spans = annotation.get("tokens_positive")
        if not isinstance(spans, list) or not all(is_numbers(span, count=2) for span in spans):
            raise ValueError(
                f"{path}: annotations[{i}] has the tokens_positive {spans!r}; it must be a list of [start, end]"
            )
    return content
