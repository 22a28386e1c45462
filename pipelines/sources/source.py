"""Source interfaces: image-text pairs as a table of URLs or with images, images with boxes, a validation set."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import pyarrow as pa

from detclipv2.image_decoding import ImageDecodingError
from schemas.manifest import sha256_hex
from schemas.source_images import BoxedImage, ImagePair, LostBoxes, Resizer, StoredImage
from schemas.training import Supervision

# What a pair takes in a file, about, where only the size of that is known: for progress and forecasts.
BYTES_PER_PAIR = 180
MAX_NAME_BYTES = 96  # of a source


def name_of_file(stem: str) -> str:
    """A file's or folder's name as that of a source or dataset: letters, digits, underscores, and short enough for its shards."""
    return short_name(re.sub(r"\W+", "_", stem))


def short_name(name: str) -> str:
    """A name that leaves room in a file's name of 255 bytes for what is put behind it."""
    encoded = name.encode()
    if len(encoded) <= MAX_NAME_BYTES:
        return name
    return f"{encoded[: MAX_NAME_BYTES - 17].decode(errors='ignore')}_{sha256_hex(name)[:16]}"


@dataclass(frozen=True, kw_only=True)
class PairBlock:
    """Consecutive pairs of a source that one job lists, whatever comes before and after them.

    Attributes:
        name: of the block, that of its first shard where the source has several blocks.
        first_shard: number of that shard within the source.
        config: everything that the pairs and their cut into shards depend on, JSON values.
        num_rows: how many there are, about.
        read: gives a table a shard, in order, with the string columns ``url`` and ``caption`` (which may be null or empty)
            and, where the source has them, columns of numbers of `schemas.tables.SCORES`.
    """

    name: str
    first_shard: int
    config: dict[str, Any]
    num_rows: int
    read: Callable[[], Iterator[pa.Table]]


Item = TypeVar("Item")


class ResizeAll(Protocol):
    """What has a resizer at work on many images, whose files are a stranger's."""

    def __call__(
        self, resizer: Resizer, items: Iterable[tuple[Item, bytes | str]], /
    ) -> Iterator[tuple[Item, StoredImage | str]]:
        """The items in their order, each with its image or the reason why there is none.

        Each comes with the content of its file, or a reason that is passed on.
        """
        ...


def resize_here(
    resizer: Resizer, items: Iterable[tuple[Item, bytes | str]]
) -> Iterator[tuple[Item, StoredImage | str]]:
    """A `ResizeAll` in this process, for images that are trusted: one that crashes its decoder ends the process."""
    for item, content in items:
        try:
            yield item, content if isinstance(content, str) else resizer(content)
        except ImageDecodingError as error:
            yield item, error.reason


class Source(Protocol):
    """Whatever has a name: letters, digits and underscores."""

    @property
    def name(self) -> str: ...


class ConfiguredSource(Source, Protocol):
    """A source that one fingerprint stands for."""

    @property
    def config(self) -> dict[str, Any]:
        """Everything that the images depend on, JSON values (a file source gives the sha256 of its files)."""
        ...


class PairSource(Source, Protocol):
    """Image-text pairs. Row order is stable, and a larger limit only appends rows: blocks of the prefix stay valid."""

    def blocks(self, limit: int | None = None, *, num_rows: int) -> Sequence[PairBlock]:
        """The first ``limit`` pairs, or all; a shard has ``num_rows`` of them, the last of a block may have fewer."""
        ...


class ImagePairShard(ConfiguredSource, Protocol):
    """Some of a source's pairs with images, to be ingested by one job; its name is the source's, a dash, and its own."""

    @property
    def source(self) -> str:
        """Name of the source."""
        ...

    @property
    def num_pairs(self) -> int:
        """How many there are, about."""
        ...

    def read(self) -> Iterator[ImagePair]: ...


@runtime_checkable
class ImagePairSource(Source, Protocol):
    """Image-text pairs whose images are at hand: they enter the pipeline after the download, at IMAGES."""

    def shards(self) -> Sequence[ImagePairShard]: ...


class BoxedSource(ConfiguredSource, Protocol):
    """Images with boxes of one supervision type, addressed by position so that shards can be made in parallel."""

    @property
    def supervision(self) -> Supervision:
        """Detection or grounding."""
        ...

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int, *, resize_all: ResizeAll = resize_here) -> Iterator[BoxedImage | LostBoxes]:
        """The images of these positions, ``stop`` excluded; boxes of images that cannot be used are counted with others.

        ``resize_all`` decodes image files.
        """
        ...

    def vocabulary(self) -> list[str]:
        """Category names (detection) or distinct phrases (grounding), sorted."""
        ...


@dataclass(frozen=True, kw_only=True)
class ValidationCounts:
    """What was written of a validation set: images, their boxes, and by reason the boxes that could not be used."""

    num_images: int
    num_boxes: int
    dropped_boxes: Mapping[str, int] = field(default_factory=dict)


class ValidationSource(ConfiguredSource, Protocol):
    """A validation set in LVIS v1 format."""

    def write(
        self, folder: Path, *, train_image_counts: dict[str, int], resize_all: ResizeAll = resize_here
    ) -> ValidationCounts:
        """Write ``annotations.json`` and ``images/`` under ``folder``, which is empty.

        From ``train_image_counts``, the training images with a box of each category name, LVIS's frequency follows (r: at
        most 10, c: at most 100, f: more), so that a concept without any training box is always rare. ``resize_all`` decodes
        image files.
        """
        ...
