"""LVIS v1 annotations assembled from named boxes.

LVIS is federated (section 3 of arXiv:1908.03195): an image's categories are known to be present (they have boxes), known
to be absent (``neg_category_ids``), or unknown; a detection of an unknown one is not judged. A category in
``not_exhaustive_category_ids`` is present but not boxed completely: its surplus detections are not judged.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.sources.boxes.names import concept_key

Frequency = Literal["r", "c", "f"]


@dataclass(frozen=True, kw_only=True)
class LvisCategory:
    """A category; ``synonyms`` begin with the name."""

    name: str
    definition: str
    synonyms: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class NamedBox:
    """A box in pixels and the name of its category."""

    name: str
    box_xyxy: tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class LvisImage:
    """An image and what is verified about it; everything is told by category name."""

    file_name: str
    width: int
    height: int
    boxes: Sequence[NamedBox]
    negatives: Sequence[str] = ()  # verified to be absent
    not_exhaustive: Sequence[str] = ()  # present, but not all boxed


def frequency_of(num_train_images: int) -> Frequency:
    """Rare, common or frequent, by the number of training images with a box of the category (LVIS v1)."""
    return "r" if num_train_images <= 10 else "c" if num_train_images <= 100 else "f"


def lvis_annotations(
    entries: Sequence[LvisImage],
    *,
    categories: Sequence[LvisCategory],
    train_image_counts: Mapping[str, int],
    description: str,
) -> dict[str, Any]:
    """The content of an LVIS v1 ``annotations.json``; ids count from 1 in the order given.

    ``image_count`` and ``instance_count`` of a category are those of this file; its ``frequency`` follows from
    ``train_image_counts``, in whatever spelling training has the name. A segmentation is the box's polygon and ``area`` the
    box's area.

    Raises:
        ValueError: an image names an unknown category, or calls a category with boxes absent.
    """
    id_of = {category.name: index for index, category in enumerate(categories, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    image_counts, instance_counts, trained = Counter[str](), Counter[str](), Counter[str]()
    for name, count in train_image_counts.items():
        trained[concept_key(name)] += count
    for image_id, image in enumerate(entries, 1):
        _check(image, id_of)
        images.append(
            {
                "id": image_id,
                "file_name": image.file_name,
                "width": image.width,
                "height": image.height,
                "neg_category_ids": sorted(id_of[name] for name in image.negatives),
                "not_exhaustive_category_ids": sorted(id_of[name] for name in image.not_exhaustive),
            }
        )
        for box in image.boxes:
            x1, y1, x2, y2 = box.box_xyxy
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": id_of[box.name],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
                }
            )
        instance_counts.update(box.name for box in image.boxes)
        image_counts.update({box.name for box in image.boxes})
    return {
        "info": {"description": description, "version": "v1"},
        "licenses": [],
        "categories": [
            {
                "id": id_of[category.name],
                "name": category.name,
                "synset": f"{category.name.replace(' ', '_')}.n.01",
                "synonyms": list(category.synonyms),
                "def": category.definition,
                "image_count": image_counts[category.name],
                "instance_count": instance_counts[category.name],
                "frequency": frequency_of(trained[concept_key(category.name)]),
            }
            for category in categories
        ],
        "images": images,
        "annotations": annotations,
    }


def _check(image: LvisImage, id_of: Mapping[str, int]) -> None:
    present = {box.name for box in image.boxes}
    unknown = {*present, *image.negatives, *image.not_exhaustive} - id_of.keys()
    if unknown:
        raise ValueError(f"{image.file_name}: {sorted(unknown)} not among the {len(id_of)} categories; add or map them")
    contradictory = present & set(image.negatives)
    if contradictory:
        raise ValueError(
            f"{image.file_name}: {sorted(contradictory)} have boxes and are called absent; drop one of the two"
        )
