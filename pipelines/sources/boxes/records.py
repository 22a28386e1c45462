"""Annotation records: what is read of COCO, LVIS, Objects365, MDETR and ODVG JSON.

`pipelines.sources.json_records` says which values a field takes. Ids of annotations are not read, for nothing refers to them:
merged files repeat them and lose nothing by it.
"""

from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import UNSET, Struct, UnsetType

from pipelines.sources.boxes.annotated_images import Size
from pipelines.sources.json_records import Flag, ImageId, ImageNumber, Name, Text, WholeNumber

# Null and an empty list: there is no box.
Bbox = tuple[float, ...] | None  # x, y, width, height in pixels
OdvgBbox = list[float | tuple[float, ...]] | None  # x1, y1, x2, y2 in pixels, or a list of such


class _Sized(Struct, gc=False, frozen=True, kw_only=True):
    width: WholeNumber | None = None
    height: WholeNumber | None = None

    @property
    def size_px(self) -> Size | None:
        """The size that an entry states for its image; zeros state none."""
        width, height = self.width or 0, self.height or 0
        return (width, height) if width > 0 and height > 0 else None


class _Boxed(Struct, gc=False, frozen=True, kw_only=True):
    bbox: Bbox = None
    iscrowd: Flag = None


class CocoImageRecord(_Sized, gc=False, frozen=True, kw_only=True):
    """An entry of ``images``."""

    id: ImageNumber
    file_name: Text | None = None
    coco_url: str | None = None
    neg_category_ids: list[WholeNumber] | UnsetType | None = UNSET
    not_exhaustive_category_ids: list[WholeNumber] | None = None


class CocoAnnotation(_Boxed, gc=False, frozen=True, kw_only=True):
    """An entry of ``annotations``."""

    image_id: WholeNumber
    category_id: WholeNumber


class CocoCategory(Struct, gc=False, frozen=True, kw_only=True):
    """An entry of ``categories``; those of LVIS have synonyms and a definition."""

    id: WholeNumber
    name: Name
    synonyms: list[Text | None] | None = None
    definition: Text | None = msgspec.field(name="def", default=None)


class CocoFile(Struct, gc=False, frozen=True, kw_only=True):
    """Instances JSON."""

    images: list[CocoImageRecord]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


class MdetrImage(_Sized, gc=False, frozen=True, kw_only=True):
    """An entry of ``images``, with its caption."""

    id: ImageId
    file_name: Text
    caption: str


class MdetrAnnotation(_Boxed, gc=False, frozen=True, kw_only=True):
    """An entry of ``annotations``; spans are of the caption's characters, from start to end, the latter excluded."""

    image_id: ImageId
    tokens_positive: tuple[tuple[WholeNumber, WholeNumber], ...]


class MdetrFile(Struct, gc=False, frozen=True, kw_only=True):
    """GoldG's JSON."""

    images: list[MdetrImage]
    annotations: list[MdetrAnnotation]


class OdvgInstance(Struct, gc=False, frozen=True, kw_only=True):
    """A category with a box, or with a list of boxes."""

    category: Name
    bbox: OdvgBbox = None


class OdvgInstances(Struct, gc=False, frozen=True, kw_only=True):
    """The section ``detection``."""

    instances: list[OdvgInstance]


class OdvgDetectionLine(_Sized, gc=False, frozen=True, kw_only=True):
    """An image with categories."""

    filename: Text
    detection: OdvgInstances


class OdvgRegion(Struct, gc=False, frozen=True, kw_only=True):
    """A phrase, or a list of its parts, with a box or a list of boxes."""

    phrase: str | list[str]
    bbox: OdvgBbox = None


class OdvgRegions(Struct, gc=False, frozen=True, kw_only=True):
    """The section ``grounding``."""

    caption: str
    regions: list[OdvgRegion]


class OdvgGroundingLine(_Sized, gc=False, frozen=True, kw_only=True):
    """An image with phrases."""

    filename: Text
    grounding: OdvgRegions


COCO_JSON = msgspec.json.Decoder(CocoFile, strict=False)
MDETR_JSON = msgspec.json.Decoder(MdetrFile, strict=False)
ODVG_DETECTION = msgspec.json.Decoder(OdvgDetectionLine, strict=False)
ODVG_GROUNDING = msgspec.json.Decoder(OdvgGroundingLine, strict=False)


def check_boxes(annotations: Iterable[CocoAnnotation | MdetrAnnotation], *, where: Path) -> None:
    """Refuse boxes of other than four numbers.

    Raises:
        ValueError: there is one.
    """
    for i, annotation in enumerate(annotations):
        if annotation.bbox and len(annotation.bbox) != 4:
            box = list(annotation.bbox)
            raise ValueError(f"{where}: annotations[{i}].bbox: expected four numbers (x, y, width, height), got {box}")
