"""What a source gives to the street: image-text pairs as a table of URLs, or pictures with boxes, or a validation set."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from schemas.training import Supervision, TrainingSample


@dataclass(frozen=True, kw_only=True)
class BoxedImage:
    """A picture with boxes, ready for a shard."""

    key: str  # unique within the source, sortable, no dot
    jpeg: bytes
    sample: TrainingSample
    # Boxes that could not be kept, by reason ("box_outside_image", "box_empty", "unknown_category"): counted in the manifest.
    dropped_boxes: dict[str, int]


class PairSource(Protocol):
    """Image-text pairs. Row order is stable, and a larger limit only appends rows: shards of the prefix stay valid."""

    @property
    def name(self) -> str: ...

    @property
    def config(self) -> dict[str, Any]: ...

    def pairs(self, limit: int | None = None) -> pa.Table:
        """A table with the string columns ``url`` and ``caption``; the latter may be null or empty."""
        ...


@runtime_checkable
class BatchedPairSource(PairSource, Protocol):
    """Pairs of any number in memory that does not grow with it: the same rows as ``pairs`` gives, in the same order."""

    def batches(self, limit: int | None = None, *, num_rows: int = 65_536) -> Iterator[pa.Table]:
        """Tables of ``num_rows`` rows, the last of fewer, with the string columns ``url`` and ``caption``."""
        ...


@dataclass(frozen=True, kw_only=True)
class PicturePair:
    """A pair that brings its picture."""

    url: str
    caption: str | None  # None: there is none, or it is not text
    picture: bytes | None  # encoded as it came
    drop_reason: str | None = None  # why there is no picture


class PicturePairShard(Protocol):
    """Some of a source's pairs with pictures, to be ingested by one job."""

    @property
    def name(self) -> str:
        """Letters, digits, underscores and dashes; begins with the source's name."""
        ...

    @property
    def config(self) -> dict[str, Any]: ...

    def read(self) -> Iterator[PicturePair]: ...


class PicturePairSource(Protocol):
    """Image-text pairs whose pictures are at hand: they enter the street after the download, at IMAGES."""

    @property
    def name(self) -> str: ...

    def shards(self) -> Sequence[PicturePairShard]: ...


class BoxedSource(Protocol):
    """Pictures with boxes of one supervision type, addressed by position so that shards can be made in parallel."""

    @property
    def name(self) -> str: ...

    @property
    def supervision(self) -> Supervision:
        """Detection or grounding."""
        ...

    @property
    def config(self) -> dict[str, Any]:
        """Everything that the pictures depend on, JSON values (a file source gives the sha256 of its files)."""
        ...

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> Iterator[BoxedImage]: ...

    def vocabulary(self) -> list[str]:
        """Category names (detection) or distinct phrases (grounding), sorted."""
        ...


class ValidationSource(Protocol):
    """A validation set in LVIS v1 format."""

    @property
    def name(self) -> str: ...

    @property
    def config(self) -> dict[str, Any]: ...

    def write(self, folder: Path, *, train_image_counts: dict[str, int]) -> int:
        """Write ``annotations.json`` and ``images/`` under ``folder``; return the number of pictures.

        Args:
            folder: an empty folder.
            train_image_counts: training pictures with a box of each category name, from which LVIS's frequency follows
                (r: at most 10, c: at most 100, f: more), so that a concept without any training box is always rare.
        """
        ...
