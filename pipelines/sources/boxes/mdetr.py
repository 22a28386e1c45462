"""Grounding from MDETR's JSON (GoldG: ``final_mixed_train*.json``, ``final_flickr_separateGT_train.json``)."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipelines.sources.boxes.annotated_images import AnnotatedImages, Annotations, Size, distinct_boxes
from pipelines.sources.boxes.coco_json import announced_size, is_numbers, parse_annotations
from pipelines.sources.boxes.image_index import Entry, ImageIndex, index_images
from pipelines.sources.boxes.lvis_format import NamedBox
from pipelines.sources.boxes.phrase import annotated_phrase
from pipelines.sources.input_files import read_text
from schemas.manifest import sha256_hex
from schemas.training import Supervision


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

    name: str = "mdetr"
    supervision: ClassVar[Supervision] = "grounding"

    def read_index(self) -> ImageIndex:
        text = read_text(self.annotations)
        content = _parse(text, self.annotations)
        of_image = defaultdict(list)
        for annotation in content["annotations"]:
            of_image[annotation["image_id"]].append(annotation)
        samples: dict[tuple[str, str], tuple[str, Size | None, list[dict[str, Any]]]] = {}
        for image in sorted(content["images"], key=_key):
            first = _key(image), announced_size(image), list[dict[str, Any]]()
            _, _, annotations = samples.setdefault((image["file_name"], image["caption"]), first)
            annotations += of_image.pop(image["id"], [])
        entries = [
            Entry(key=key, names=(file_name,), num_boxes=len(annotations), handle=(caption, size_px, annotations))
            for (file_name, caption), (key, size_px, annotations) in samples.items()
        ]
        phrases = (box.name for entry in entries for box in self.annotate(entry.handle).boxes)
        return index_images(
            entries,
            folders=self.images,
            digest=sha256_hex(text),
            vocabulary=phrases,
            where=self.annotations,
            num_orphans=sum(map(len, of_image.values())),
            shared="apart",
        )

    def annotate(self, handle: tuple[str, Size | None, list[dict[str, Any]]]) -> Annotations:
        caption, size_px, annotations = handle
        boxes: list[NamedBox] = []
        dropped: Counter[str] = Counter()
        for annotation in annotations:
            x, y, width, height = annotation["bbox"]
            phrase = annotated_phrase(" ".join(_spans(annotation, caption)))
            if annotation.get("iscrowd"):
                dropped["crowd"] += 1
            elif phrase is None:
                dropped["no_phrase"] += 1
            else:
                boxes.append(NamedBox(name=phrase, box_xyxy=(x, y, x + width, y + height)))
        return distinct_boxes(boxes, dropped, caption=caption, size_px=size_px)


def _key(image: dict[str, Any]) -> str:
    return str(image["id"]).zfill(12)


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
