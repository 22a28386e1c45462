"""COCO-style instances JSON (LVIS and Objects365 files too), read once a process and checked."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import UNSET

from pipelines.sources.boxes.annotated_images import Size
from pipelines.sources.boxes.lvis_format import LvisCategory
from pipelines.sources.boxes.names import concept_key, respelled_note, spaced, unused_note
from pipelines.sources.boxes.records import (
    COCO_JSON,
    CocoAnnotation,
    CocoCategory,
    CocoFile,
    CocoImageRecord,
    check_boxes,
)
from pipelines.sources.input_files import read_bytes
from pipelines.sources.json_records import decode_records, text_of

NameOf = Callable[[str], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class CocoImage:
    """One entry of ``images``."""

    key: str  # its id, 12 digits
    names: tuple[str, ...]  # where its file may lie
    size_px: Size | None
    annotations: tuple[CocoAnnotation, ...]
    absent: frozenset[int] | None  # LVIS: ids of categories verified to be absent; None: all without an annotation
    not_exhaustive: frozenset[int]  # LVIS: ids of categories of which not all are boxed


@dataclass(frozen=True, kw_only=True)
class CocoIndex:
    """Images by ascending id, categories by id.

    Attributes:
        sha256: of the file.
        categories: several ids have one category where their names are one (`pipelines.sources.boxes.names`), which has the
            first spelling of the file. Those that the file says nothing about are left out: a category without an annotation
            in any image and without a word on its absence. Nobody verified that it is absent: the root
            of an export, "fruit" for apples and pears, is there in every image.
        names: of all categories, as the file spells them.
        num_orphans: annotations of images that the file does not list.
        notes: what a user should know, one line each.
    """

    sha256: str
    images: tuple[CocoImage, ...]
    categories: dict[int, LvisCategory]
    names: tuple[str, ...]
    num_orphans: int
    notes: tuple[str, ...]


@lru_cache(maxsize=4)
def read_coco(annotations: Path, name_of: NameOf = spaced) -> CocoIndex:
    """Read an instances JSON; ``name_of`` is for synonyms, too.

    Raises:
        ValueError: it cannot be read, a record lacks a field or has a bad one, an id occurs twice, or a category has two names.
    """
    text = read_bytes(annotations)
    expected = "COCO instances JSON has images, annotations and categories"
    file = decode_records(text, COCO_JSON, where=annotations, expected=expected)
    sha256 = hashlib.sha256(text).hexdigest()
    del text
    check_boxes(file.annotations, where=annotations)
    of_image = defaultdict[int, list[CocoAnnotation]](list)
    for annotation in file.annotations:
        of_image[annotation.image_id].append(annotation)
    # LVIS says of every image what is absent, and null where that is nothing; if all are null, nobody looked.
    is_federated = any(isinstance(record.neg_category_ids, list) for record in file.images)
    images = tuple(
        _image(record, of_image.pop(record.id, ()), is_federated=is_federated, where=annotations)
        for record in _by_id(file, where=annotations)
    )
    used = {annotation.category_id for annotation in file.annotations}
    for image in images:
        used |= image.not_exhaustive.union(image.absent or ())
    categories, notes = _categories(file.categories, name_of, used=used, where=annotations)
    return CocoIndex(
        sha256=sha256,
        images=images,
        categories=categories,
        names=tuple(text_of(category.name) for category in file.categories),
        num_orphans=sum(map(len, of_image.values())),
        notes=tuple(notes),
    )


def _by_id(file: CocoFile, *, where: Path) -> list[CocoImageRecord]:
    first: dict[int, int] = {}
    for i, record in enumerate(file.images):
        if first.setdefault(record.id, i) != i:
            raise ValueError(
                f"{where}: images[{first[record.id]}] and images[{i}] have one id, {record.id}; number them anew"
            )
    return sorted(file.images, key=lambda record: record.id)


def _image(
    record: CocoImageRecord, annotations: Iterable[CocoAnnotation], *, is_federated: bool, where: Path
) -> CocoImage:
    says = record.neg_category_ids is not UNSET
    return CocoImage(
        key=f"{record.id:012d}",
        names=_file_names(record, where=where),
        size_px=record.size_px,
        annotations=tuple(annotations),
        absent=frozenset(record.neg_category_ids or ()) if says and is_federated else None,
        not_exhaustive=frozenset(record.not_exhaustive_category_ids or ()),
    )


def _file_names(record: CocoImageRecord, *, where: Path) -> tuple[str, ...]:
    """LVIS v1 names per image by ``coco_url`` alone; v0.5 has a ``file_name`` of 2014 beside it."""
    names = [] if record.file_name in (None, "") else [text_of(record.file_name or 0)]
    if record.coco_url:
        try:
            path = urlsplit(record.coco_url).path
        except ValueError as error:
            raise ValueError(f"{where}: the image with id {record.id} has a bad coco_url: {error}") from error
        names.append("/".join(path.split("/")[-2:]))
    if not names:
        raise ValueError(f"{where}: the image with id {record.id} has neither 'file_name' nor 'coco_url'")
    return tuple(names)


def _categories(
    entries: Sequence[CocoCategory], name_of: NameOf, *, used: Set[int], where: Path
) -> tuple[dict[int, LvisCategory], list[str]]:
    """Categories by id, those of one concept merged, and notes on what is merged or left out.

    ``used`` are the ids of categories with an annotation, or with a word on their absence.
    """
    key_of: dict[int, str] = {}
    concepts = defaultdict[str, list[CocoCategory]](list)
    for category in entries:
        key = concept_key(name_of(text_of(category.name)))
        if key_of.setdefault(category.id, key) != key:
            before = text_of(concepts[key_of[category.id]][0].name)
            raise ValueError(
                f"{where}: the category id {category.id} has two names, {before!r} and {text_of(category.name)!r};"
                " give each category an id of its own"
            )
        concepts[key].append(category)
    used_keys = {key_of[i] for i in used & key_of.keys()}
    merged = {key: _merged(same, name_of) for key, same in concepts.items()}
    respelled = {
        text_of(category.name): text_of(same[0].name)
        for same in concepts.values()
        for category in same
        if category.name != same[0].name
    }
    unused = [merged[key].name for key in concepts if key not in used_keys]
    notes = respelled_note(respelled)
    if unused:
        notes.append(unused_note(unused))
    return {i: merged[key] for i, key in key_of.items() if key in used_keys}, notes


def _merged(same: list[CocoCategory], name_of: NameOf) -> LvisCategory:
    """The category of entries whose names are one, in the spelling of the first."""
    name = name_of(text_of(same[0].name))
    synonyms = (name_of(text_of(text)) for category in same for text in category.synonyms or () if text is not None)
    definitions = (text_of(category.definition) for category in same if category.definition is not None)
    distinct = tuple(dict.fromkeys([name, *filter(None, synonyms)]))
    return LvisCategory(name=name, definition=next(definitions, ""), synonyms=distinct)
