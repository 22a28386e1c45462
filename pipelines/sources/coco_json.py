"""COCO-style instances JSON (LVIS files too), read once a process and checked."""

import json
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pipelines.sources.lvis_format import LvisCategory
from schemas.manifest import sha256_hex

Split = Literal["all", "train", "held_out"]
HOLD_OUT_EVERY = 5

_KEYS = {
    "images": ("id",),
    "annotations": ("image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}


@dataclass(frozen=True, kw_only=True)
class CocoPicture:
    """One entry of ``images`` whose file is there."""

    key: str  # its id, 12 digits
    path: Path
    annotations: tuple[dict[str, Any], ...]
    absent: frozenset[int] | None  # LVIS: ids of categories verified to be absent; None: all without an annotation
    not_exhaustive: frozenset[int]  # LVIS: ids of categories of which not all are boxed
    num_lost_boxes: int = 0  # of entries without a file


@dataclass(frozen=True, kw_only=True)
class CocoIndex:
    """Pictures by ascending id, categories by id."""

    sha256: str
    pictures: tuple[CocoPicture, ...]
    categories: dict[int, LvisCategory]


@lru_cache(maxsize=4)
def read_index(annotations: Path, images: Path, split: Split) -> CocoIndex:
    """Read an instances JSON.

    The boxes of pictures without a file are counted with the first picture, so that none goes missing unseen.

    Args:
        annotations: the JSON.
        images: folder of the pictures.
        split: see `pipelines.sources.coco.Coco`.

    Raises:
        ValueError: it cannot be read, lacks a key, or none of its pictures is in the folder.
    """
    text = _read_text(annotations)
    content = _parse(text, annotations)
    of_image = defaultdict(list)
    for annotation in content["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    pictures: list[CocoPicture] = []
    num_lost_boxes = 0
    for i, image in enumerate(sorted(content["images"], key=lambda image: image["id"])):
        is_held_out = i % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1
        if split != "all" and is_held_out != (split == "held_out"):
            continue
        path = _find(image, images, where=annotations)
        if path is None:
            num_lost_boxes += len(of_image[image["id"]])
        else:
            pictures.append(_picture(image, path, of_image[image["id"]]))
    if not pictures:
        raise ValueError(
            f"{annotations}: none of its {len(content['images'])} pictures ({split}) is in the folder {images}"
        )
    pictures[0] = replace(pictures[0], num_lost_boxes=num_lost_boxes)
    categories = {category["id"]: _category(category) for category in content["categories"]}
    return CocoIndex(sha256=sha256_hex(text), pictures=tuple(pictures), categories=categories)


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _parse(text: str, path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    for section, keys in _KEYS.items():
        if not isinstance(content, dict) or not isinstance(content.get(section), list):
            raise ValueError(
                f"{path} has no list {section!r}: COCO instances JSON has images, annotations and categories"
            )
        for i, entry in enumerate(content[section]):
            missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
            if missing:
                raise ValueError(f"{path}: {section}[{i}] has no {missing[0]!r}")
    for i, image in enumerate(content["images"]):
        if not isinstance(image["id"], int) or image["id"] < 0:
            raise ValueError(f"{path}: images[{i}] has the id {image['id']!r}; it must be a whole number")
    for i, annotation in enumerate(content["annotations"]):
        box = annotation["bbox"]
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(side, int | float) for side in box):
            raise ValueError(
                f"{path}: annotations[{i}] has the bbox {box!r}; it must be four numbers: x, y, width, height"
            )
    return content


def _find(image: dict[str, Any], folder: Path, *, where: Path) -> Path | None:
    """The picture's file; LVIS names it by ``coco_url`` alone, whose folder (``val2017``) may or may not be there."""
    if "file_name" in image:
        candidates = [image["file_name"]]
    elif "coco_url" in image:
        parts = urlsplit(image["coco_url"]).path.split("/")
        candidates = ["/".join(parts[-2:]), parts[-1]]
    else:
        raise ValueError(f"{where}: the image with id {image['id']} has neither 'file_name' nor 'coco_url'")
    return next((folder / name for name in candidates if (folder / name).is_file()), None)


def _picture(image: dict[str, Any], path: Path, annotations: list[dict[str, Any]]) -> CocoPicture:
    absent = image.get("neg_category_ids")
    return CocoPicture(
        key=f"{image['id']:012d}",
        path=path,
        annotations=tuple(annotations),
        absent=None if absent is None else frozenset(absent),
        not_exhaustive=frozenset(image.get("not_exhaustive_category_ids", ())),
    )


def _category(entry: dict[str, Any]) -> LvisCategory:
    """Names as a person writes them: LVIS has underscores for spaces."""
    name, *synonyms = (text.replace("_", " ") for text in (entry["name"], *entry.get("synonyms", ())))
    return LvisCategory(name=name, definition=entry.get("def", ""), synonyms=tuple(dict.fromkeys([name, *synonyms])))
