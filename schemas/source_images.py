"""Images as a source gives them: an image-text pair, or an image with boxes; and an image as it is stored."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.training import TrainingSample


@dataclass(frozen=True, kw_only=True)
class ImagePair:
    """A pair that brings its image."""

    url: str
    caption: str | None  # None: there is none, or it is not text
    image: bytes | None  # encoded as it came
    drop_reason: str | None = None  # why it cannot be used
    scores: Mapping[str, float] = field(default_factory=dict)  # of `schemas.tables.SCORES`, those that are known


@dataclass(frozen=True, kw_only=True)
class StoredImage:
    """An image as it is stored; sizes in pixels, the original ones upright (EXIF)."""

    jpeg: bytes
    width: int
    height: int
    original_width: int
    original_height: int
    phash: str | None  # None: it was not asked for

    @property
    def columns(self) -> dict[str, Any]:
        """All but the JPEG, by their names in a table."""
        return {name: value for name, value in vars(self).items() if name != "jpeg"}


# Makes of the content of an image file what is stored of it; picklable, since it works in another process.
Resizer = Callable[[bytes], StoredImage]


@dataclass(frozen=True, kw_only=True)
class ShardImage:
    """An image with its annotation, ready for a shard."""

    key: str  # unique within the source, sortable, no dot
    jpeg: bytes
    sample: TrainingSample


@dataclass(frozen=True, kw_only=True)
class BoxedImage(ShardImage):
    """An image with boxes, ready for a shard."""

    # Boxes that could not be kept, by reason ("box_outside_image", "box_empty", "unknown_category"): counted in the manifest.
    dropped_boxes: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class LostBoxes:
    """Boxes of images none of which could be used, by reason."""

    dropped_boxes: dict[str, int]


def pair_key(url: str, caption: str) -> str:
    """First 16 hex digits of sha256(url + NUL + caption): the identity of a pair along the whole pipeline."""
    return hashlib.sha256(f"{url}\0{caption}".encode(errors="surrogatepass")).hexdigest()[:16]
