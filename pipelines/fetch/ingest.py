"""Image ingestion: images that a source brings along, stored exactly as the download stage stores those of the web."""

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, ClassVar

import pyarrow as pa

from pipelines.fetch.download import IMAGES_TAR_NAME
from pipelines.fetch.drop_reasons import ImageError
from pipelines.fetch.image_resizer import ImageSettings, Resizer
from pipelines.storage.tars import TarSample, clear_disk_errors, write_tar
from schemas.source_images import ImagePair, pair_key
from schemas.tables import IMAGES, with_drop_reason


@dataclass(frozen=True, kw_only=True)
class Ingest(ImageSettings):
    """Pairs with images to IMAGES, and the images to ``images.tar``.

    Drops what the source says cannot be used, by the source's reason, ``image_missing``, ``caption_not_text``,
    ``caption_damaged``, ``caption_empty``, ``duplicate_pair``, and, as `Download` does, ``too_many_pixels``, ``truncated`` and
    ``not_an_image``. The settings are those of `Download`.
    """

    name: ClassVar[str] = "ingest"
    version: ClassVar[int] = 4
    output_schema: ClassVar[pa.Schema] = IMAGES

    def run(self, pairs: Iterable[ImagePair], *, source: str, folder: Path) -> pa.Table:
        """IMAGES with ``drop_reason``, one row a pair, and the images in ``folder/images.tar``; both are sorted by key.

        The pairs come in any order; one is in memory at a time. ``sha256`` is that of the image as it came. Captions of one
        image that follow each other cost one decoding; the tar has the image under each key.

        Raises:
            OSError: the images could not be stored, such as on a full disk.
        """
        resizer = lru_cache(maxsize=1)(self.resizer)
        rows: list[dict[str, Any]] = []
        extents: dict[str, tuple[int, int]] = {}  # key -> start, length
        seen: set[str] = set()
        with clear_disk_errors(folder), tempfile.TemporaryFile(dir=folder) as spool:
            for pair in pairs:
                row, jpeg = _row(pair, resizer, seen)
                rows.append({"source": source, **row})
                if jpeg is not None:
                    extents[row["key"]] = (spool.tell(), len(jpeg))
                    spool.write(jpeg)
            write_tar(folder / IMAGES_TAR_NAME, _samples(spool, extents))
        rows.sort(key=lambda row: row["key"])
        return pa.Table.from_pylist(rows, schema=with_drop_reason(IMAGES))


def _row(pair: ImagePair, resizer: Resizer, seen: set[str]) -> tuple[dict[str, Any], bytes | None]:
    """A row without its source, and the stored image if the row is kept."""
    row: dict[str, Any] = {"url": pair.url, "caption": pair.caption or "", **pair.scores}
    row["key"] = pair_key(row["url"], row["caption"])
    if pair.drop_reason is not None:
        return row | {"drop_reason": pair.drop_reason}, None
    if pair.image is None:
        return row | {"drop_reason": "image_missing"}, None
    if pair.caption is None:
        return row | {"drop_reason": "caption_not_text"}, None
    if "\ufffd" in pair.caption:  # what another reader wrote in place of bytes that are no text
        return row | {"drop_reason": "caption_damaged"}, None
    if not pair.caption.strip():
        return row | {"drop_reason": "caption_empty"}, None
    if row["key"] in seen:
        return row | {"drop_reason": "duplicate_pair"}, None
    seen.add(row["key"])
    try:
        image = resizer(pair.image)
    except ImageError as error:
        return row | {"drop_reason": error.slug}, None
    return row | image.columns | {"sha256": hashlib.sha256(pair.image).hexdigest()}, image.jpeg


def _samples(spool: IO[bytes], extents: dict[str, tuple[int, int]]) -> Iterator[TarSample]:
    for key, (start, length) in sorted(extents.items()):
        spool.seek(start)
        yield TarSample(key=key, members={"jpg": spool.read(length)})
