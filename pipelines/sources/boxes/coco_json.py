"""COCO-style instances JSON (LVIS and Objects365 files too), read once a process and checked."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pipelines.sources.boxes.annotated_images import Size
from pipelines.sources.boxes.lvis_format import LvisCategory
from pipelines.sources.input_files import parse_json, read_text
from schemas.manifest import sha256_hex

Split = Literal["all", "train", "held_out"]
HOLD_OUT_EVERY = 5

NameOf = Callable[[str], str]


def spaced(name: str) -> str:
    """A name as a person writes it: LVIS has underscores for spaces."""
    return name.replace("_", " ")


@dataclass(frozen=True, kw_only=True, slots=True)
class CocoImage:
    """One entry of ``images``."""

    key: str  # its id, 12 digits
    names: tuple[str, ...]  # where its file may lie
    size_px: Size | None
    annotations: tuple[dict[str, Any], ...]
    absent: frozenset[int] | None  # LVIS: ids of categories verified to be absent; None: all without an annotation
    not_exhaustive: frozenset[int]  # LVIS: ids of categories of which not all are boxed


@dataclass(frozen=True, kw_only=True)
class CocoIndex:
    """Images by ascending id, categories by id."""

    sha256: str
    images: tuple[CocoImage, ...]
    categories: dict[int, LvisCategory]
    num_orphans: int  # annotations of images that the file does not list


@lru_cache(maxsize=4)
def read_coco(annotations: Path, split: Split, name_of: NameOf = spaced) -> CocoIndex:
    """Read an instances JSON; ``split`` is that of `pipelines.sources.boxes.coco.Coco`, ``name_of`` is for synonyms, too.

    Raises:
        ValueError: it cannot be read or lacks a key.
    """
    text = read_text(annotations)
    content = parse_annotations(
        text,
        annotations,
        keys={"images": ("id",), "annotations": ("image_id", "category_id", "bbox"), "categories": ("id", "name")},
        expected="COCO instances JSON has images, annotations and categories",
    )
    for i, image in enumerate(content["images"]):
        if not isinstance(image["id"], int) or image["id"] < 0:
            raise ValueError(f"{annotations}: images[{i}] has the id {image['id']!r}; it must be a whole number")
    of_image = defaultdict(list)
    for annotation in content["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    images = sorted(content["images"], key=lambda image: image["id"])
    records = [
        _image(image, of_image[image["id"]], where=annotations)
        for i, image in enumerate(images)
        if split == "all" or (i % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1) == (split == "held_out")
    ]
    listed = {image["id"] for image in images}
    return CocoIndex(
        sha256=sha256_hex(text),
        images=tuple(records),
        categories={category["id"]: _category(category, name_of) for category in content["categories"]},
        num_orphans=sum(annotation["image_id"] not in listed for annotation in content["annotations"]),
    )


def parse_annotations(
    text: str, path: Path, *, keys: Mapping[str, tuple[str, ...]], expected: str
) -> dict[str, list[dict[str, Any]]]:
    """Annotation JSON in sections that are lists; a ``bbox`` is four numbers.

    ``keys`` are those that each entry of a section must have, by section ("annotations" is one); ``expected`` ends an error.

    Raises:
        ValueError: it is not JSON, lacks a section or a key, or has a bad box.
    """
    content = parse_json(text, path=path)
    for section, wanted in keys.items():
        if not isinstance(content, dict) or not isinstance(content.get(section), list):
            raise ValueError(f"{path} has no list {section!r}: {expected}")
        for i, entry in enumerate(content[section]):
            missing = [key for key in wanted if not isinstance(entry, dict) or key not in entry]
            if missing:
                raise ValueError(f"{path}: {section}[{i}] has no {missing[0]!r}")
    for i, annotation in enumerate(content["annotations"]):
        if not is_numbers(annotation["bbox"], count=4):
            box = annotation["bbox"]
            raise ValueError(
                f"{path}: annotations[{i}] has the bbox {box!r}; it must be four numbers: x, y, width, height"
            )
    return content


def is_numbers(value: Any, *, count: int) -> bool:
    """Whether a JSON value is a list of so many numbers."""
    return isinstance(value, list) and len(value) == count and all(isinstance(item, int | float) for item in value)


def _image(image: dict[str, Any], annotations: list[dict[str, Any]], *, where: Path) -> CocoImage:
    absent = image.get("neg_category_ids")
    return CocoImage(
        key=f"{image['id']:012d}",
        names=_file_names(image, where=where),
        size_px=announced_size(image),
        annotations=tuple(annotations),
        absent=None if absent is None else frozenset(absent),
        not_exhaustive=frozenset(image.get("not_exhaustive_category_ids", ())),
    )


def announced_size(image: dict[str, Any]) -> Size | None:
    """The size that an entry states for its image."""
    width, height = image.get("width"), image.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) and width and height else None


def _file_names(image: dict[str, Any], *, where: Path) -> tuple[str, ...]:
    """LVIS v1 names per image by ``coco_url`` alone; v0.5 has a ``file_name`` of 2014 beside it."""
    names = [str(image["file_name"])] if image.get("file_name") else []
    if image.get("coco_url"):
        names.append("/".join(urlsplit(image["coco_url"]).path.split("/")[-2:]))
    if not names:
        raise ValueError(f"{where}: the image with id {image['id']} has neither 'file_name' nor 'coco_url'")
    return tuple(names)


def _category(entry: dict[str, Any], name_of: NameOf) -> LvisCategory:
    name, *synonyms = (name_of(text) for text in (entry["name"], *entry.get("synonyms", ())))
    return LvisCategory(name=name, definition=entry.get("def", ""), synonyms=tuple(dict.fromkeys([name, *synonyms])))
