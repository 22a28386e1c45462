"""Grounding from Flickr30k Entities: sentences with marked phrases, and boxes by the phrases' entities."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pipelines.sources.boxes.annotated_images import AnnotatedImages, Annotations, distinct_boxes
from pipelines.sources.boxes.image_index import Entry, ImageIndex, index_images
from pipelines.sources.boxes.lvis_format import NamedBox
from pipelines.sources.boxes.phrase import annotated_phrase
from pipelines.sources.boxes.voc_xml import VocAnnotation, read_voc_xml
from pipelines.sources.input_files import check_inside, read_text
from schemas.manifest import canonical_json, sha256_hex
from schemas.training import Supervision

# [/EN#283585/people A young child]: entity, types, words.
# No bracket opens within, so that a line without an end of a phrase is read once and not once a beginning.
_PHRASE = re.compile(r"\[/EN#(?P<entity>\d+)(?:/[^\s\[\]]*)? (?P<words>[^\[\]]*)\]")


_FILES = (("Sentences", "txt"), ("Annotations", "xml"))
_MAX_DIGITS = 100

# Of one sentence of an image: its text, the entity and the words of each phrase, and the image's annotation.
_Sentence = tuple[str, tuple[tuple[str, str], ...], VocAnnotation]


@dataclass(frozen=True, kw_only=True)
class Flickr30kEntities(AnnotatedImages):
    """A `pipelines.sources.source.BoxedSource` of supervision grounding: one sample an image and sentence, as MDETR has it.

    An entity has several boxes, or none: those of ``nobox`` (not in sight) and ``scene`` (all of the image) are skipped,
    for there is nothing to count as a box. A sentence without any box gives no sample. Boxes are dropped as ``no_phrase``
    (a pronoun, or a box that no sentence mentions), ``duplicate_box`` (the same box with the same phrase twice) and for the
    reasons of `AnnotatedImages`.

    Attributes:
        entities: folder with ``Sentences`` and ``Annotations``.
        images: folders of the images, ``<number>.jpg``.
        image_set: a list of image numbers, one a line (the official ``train.txt``); None: all.
    """

    entities: Path
    images: tuple[Path, ...]
    image_set: Path | None = None

    name: str = "flickr30k_entities"
    supervision: ClassVar[Supervision] = "grounding"

    def read_index(self) -> ImageIndex:
        entries: list[Entry] = []
        vocabulary: set[str] = set()
        contents: list[list[str]] = []
        unmentioned: Counter[str] = Counter()
        for number in self._numbers():
            path, boxes = (self.entities / kind / f"{number}.{end}" for kind, end in _FILES)
            for file in (path, boxes):
                check_inside(file, [file.parent], where=self.entities)
            text, annotation = read_text(path), read_voc_xml(boxes)
            contents.append([number, text, annotation.text])
            sentences = list(_sentences(text, annotation, path))
            mentioned = {entity for _, phrases, _ in sentences for entity, _ in phrases}
            unmentioned["no_phrase"] += sum(
                item.box_xyxy is not None and mentioned.isdisjoint(item.names) for item in annotation.objects
            )
            for i, sentence in enumerate(sentences):
                annotations = self.annotate(sentence)
                if num_boxes := annotations.num_boxes:
                    vocabulary.update(box.name for box in annotations.boxes)
                    key = f"{number.zfill(12)}-{i}"
                    entries.append(Entry(key=key, names=(f"{number}.jpg",), num_boxes=num_boxes, handle=sentence))
        return index_images(
            entries,
            folders=self.images,
            digest=sha256_hex(canonical_json(contents)),
            vocabulary=vocabulary,
            where=self.entities,
            lost_boxes=unmentioned,
            shared="apart",
            what="sentences with a box",
        )

    def annotate(self, handle: _Sentence) -> Annotations:
        text, phrases, annotation = handle
        boxes: list[NamedBox] = []
        dropped: Counter[str] = Counter()
        for entity, words in phrases:
            phrase = annotated_phrase(words)
            for item in annotation.objects:
                if entity not in item.names or item.box_xyxy is None:
                    continue
                if phrase is None:
                    dropped["no_phrase"] += 1
                else:
                    boxes.append(NamedBox(name=phrase, box_xyxy=item.box_xyxy))
        return distinct_boxes(boxes, dropped, caption=text, size_px=annotation.size_px)

    def _numbers(self) -> list[str]:
        if self.image_set is None:
            paths = (self.entities / "Sentences").glob("*.txt")
            numbers = [path.stem for path in paths if not path.name.startswith(".")]  # a Mac's archives have such files
        else:
            numbers = read_text(self.image_set).split()
        if not numbers:
            raise ValueError(f"{self.image_set or self.entities / 'Sentences'} names no image")
        bad = [number for number in numbers if not number.isdecimal() or len(number) > _MAX_DIGITS]
        if bad:
            raise ValueError(
                f"{self.image_set or self.entities / 'Sentences'}: {bad[0][:80]!r} is no number of an image"
            )
        return sorted(set(numbers), key=int)


def _sentences(text: str, annotation: VocAnnotation, path: Path) -> Iterator[_Sentence]:
    for row, line in enumerate(text.splitlines(), start=1):
        plain = " ".join(_PHRASE.sub(lambda match: match["words"], line).split())
        if "[/EN#" in plain:
            raise ValueError(f"{path}: row {row} has a phrase that is not [/EN#number/type words]: {line[:80]!r}")
        yield plain, tuple((match["entity"], match["words"]) for match in _PHRASE.finditer(line)), annotation
