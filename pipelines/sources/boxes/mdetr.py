"""Grounding from MDETR's JSON (GoldG: ``final_mixed_train*.json``, ``final_flickr_separateGT_train.json``)."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pipelines.sources.boxes.annotated_images import AnnotatedImages, Annotations, Size, distinct_boxes
from pipelines.sources.boxes.image_index import Entry, ImageIndex, index_images
from pipelines.sources.boxes.lvis_format import NamedBox
from pipelines.sources.boxes.phrase import annotated_phrase
from pipelines.sources.boxes.records import MDETR_JSON, MdetrAnnotation, MdetrFile, MdetrImage, check_boxes
from pipelines.sources.input_files import read_bytes
from pipelines.sources.json_records import ImageId, decode_records, text_of
from schemas.training import Supervision


@dataclass(frozen=True, kw_only=True)
class Mdetr(AnnotatedImages):
    """A `pipelines.sources.source.BoxedSource` of supervision grounding.

    The JSON is COCO's, with a ``caption`` in each image and, in each annotation, ``tokens_positive``: spans of characters of
    the caption, whose texts together are the phrase. Entries of ``images`` with the same file and caption are one sample,
    under the smallest of their ids. Boxes are dropped as ``no_phrase`` (no span, a span outside the caption, or a pronoun),
    ``duplicate_box`` (the same box with the same phrase twice in a sample), ``crowd``, ``no_box`` (an annotation without
    one), and for the reasons of `AnnotatedImages`.

    Attributes:
        annotations: the JSON.
        images: folders of the images; the mixed file needs Visual Genome's and COCO's.
    """

    annotations: Path
    images: tuple[Path, ...]

    name: str = "mdetr"
    supervision: ClassVar[Supervision] = "grounding"

    def read_index(self) -> ImageIndex:
        text = read_bytes(self.annotations)
        expected = "MDETR's JSON has images and annotations"
        file = decode_records(text, MDETR_JSON, where=self.annotations, expected=expected)
        digest = hashlib.sha256(text).hexdigest()
        del text
        check_boxes(file.annotations, where=self.annotations)
        of_image = defaultdict[str, list[MdetrAnnotation]](list)
        for annotation in file.annotations:
            of_image[_key(annotation.image_id)].append(annotation)
        samples: dict[tuple[str, str], tuple[str, Size | None, list[MdetrAnnotation]]] = {}
        for key, image in _by_key(file, where=self.annotations):
            first = key, image.size_px, list[MdetrAnnotation]()
            _, _, annotations = samples.setdefault((text_of(image.file_name), image.caption), first)
            annotations += of_image.pop(key, [])
        entries = [
            Entry(key=key, names=(file_name,), num_boxes=len(annotations), handle=(caption, size_px, annotations))
            for (file_name, caption), (key, size_px, annotations) in samples.items()
        ]
        phrases = (box.name for entry in entries for box in self.annotate(entry.handle).boxes)
        return index_images(
            entries,
            folders=self.images,
            digest=digest,
            vocabulary=phrases,
            where=self.annotations,
            num_orphans=sum(map(len, of_image.values())),
            shared="apart",
        )

    def annotate(self, handle: tuple[str, Size | None, list[MdetrAnnotation]]) -> Annotations:
        caption, size_px, annotations = handle
        boxes: list[NamedBox] = []
        dropped: Counter[str] = Counter()
        for annotation in annotations:
            phrase = annotated_phrase(" ".join(_spans(annotation, caption)))
            if annotation.iscrowd:
                dropped["crowd"] += 1
            elif phrase is None:
                dropped["no_phrase"] += 1
            elif not annotation.bbox:
                dropped["no_box"] += 1
            else:
                x, y, width, height = annotation.bbox
                boxes.append(NamedBox(name=phrase, box_xyxy=(x, y, x + width, y + height)))
        return distinct_boxes(boxes, dropped, caption=caption, size_px=size_px)


def _key(image_id: ImageId) -> str:
    """One for 7, "7" and "007"."""
    return str(image_id).zfill(12)


def _by_key(file: MdetrFile, *, where: Path) -> Iterator[tuple[str, MdetrImage]]:
    """Images by ascending key; one that is there twice comes once."""
    first: dict[str, MdetrImage] = {}
    for i, image in enumerate(file.images):
        before = first.setdefault(_key(image.id), image)
        if (before.file_name, before.caption) != (image.file_name, image.caption):
            raise ValueError(f"{where}: images[{i}] has the id {image.id!r} of another one; number them anew")
    yield from sorted(first.items(), key=lambda item: item[0])


def _spans(annotation: MdetrAnnotation, caption: str) -> Iterator[str]:
    """The texts of ``tokens_positive``, in the order of the caption; none where one of them is not in it."""
    spans = sorted(annotation.tokens_positive)
    if all(0 <= start < end <= len(caption) for start, end in spans):
        yield from (caption[start:end] for start, end in spans)
