"""Image ingestion: images that a source brings along, stored exactly as the download stage stores those of the web.

They are strangers' as well: the decoding process has them, and one that crashes it costs its own row.
"""

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

import pyarrow as pa

from pipelines.fetch.decoder import resize_all
from pipelines.fetch.download import IMAGES_TAR_NAME
from pipelines.fetch.image_resizer import ImageSettings
from pipelines.storage.tars import TarSample, clear_disk_errors, write_tar
from schemas.source_images import ImagePair, pair_key
from schemas.tables import IMAGES, with_drop_reason


@dataclass(frozen=True, kw_only=True)
class Ingest(ImageSettings):
    """Pairs with images to IMAGES, and the images to ``images.tar``.

    Drops what the source says cannot be used, by the source's reason, ``image_missing``, ``caption_not_text``,
    ``caption_damaged``, ``caption_empty``, ``duplicate_pair``, and, as `Download` does, for the reasons of an `ImageError`. The
    settings are those of `Download`.
    """

    name: ClassVar[str] = "ingest"
    version: ClassVar[int] = 4
    output_schema: ClassVar[pa.Schema] = IMAGES

    def run(self, pairs: Iterable[ImagePair], *, source: str, folder: Path) -> pa.Table:
        """IMAGES with ``drop_reason``, one row a pair, and the images in ``folder/images.tar``; both are sorted by key.

        The pairs come in any order; a few are in memory at a time. ``sha256`` is that of the image as it came. Captions of one
        image that follow each other cost one decoding; the tar has the image under each key.

        Raises:
            OSError: the images could not be stored, such as on a full disk.
            RuntimeError: no decoding process could be started.
        """
        rows: list[dict[str, Any]] = []
        extents: dict[str, tuple[int, int]] = {}  # key -> start, length
        seen: set[str] = set()
        with clear_disk_errors(folder), tempfile.TemporaryFile(dir=folder) as spool:
            for row, image in resize_all(self.resizer, (_row(pair, seen) for pair in pairs)):
                row["source"] = source
                if isinstance(image, str):
                    row |= {"drop_reason": image, "sha256": None}
                else:
                    row |= image.columns
                    extents[row["key"]] = (spool.tell(), len(image.jpeg))
                    spool.write(image.jpeg)
                rows.append(row)
            write_tar(folder / IMAGES_TAR_NAME, _samples(spool, extents))
        rows.sort(key=lambda row: row["key"])
        return pa.Table.from_pylist(rows, schema=with_drop_reason(IMAGES))


def _row(pair: ImagePair, seen: set[str]) -> tuple[dict[str, Any], bytes | str]:
    """A row without its source, and the image as it came, or the reason why it is not to be decoded."""
    row: dict[str, Any] = {"url": pair.url, "caption": pair.caption or "", **pair.scores}
    row["key"] = pair_key(row["url"], row["caption"])
    if pair.drop_reason is not None:
        return row, pair.drop_reason
    if pair.image is None:
        return row, "image_missing"
    if pair.caption is None:
        return row, "caption_not_text"
    if "\ufffd" in pair.caption:  # what another reader wrote in place of bytes that are no text
        return row, "caption_damaged"
    if not pair.caption.strip():
        return row, "caption_empty"
    if row["key"] in seen:
        return row, "duplicate_pair"
    seen.add(row["key"])
    return row | {"sha256": hashlib.sha256(pair.image).hexdigest()}, pair.image


def _samples(spool: IO[bytes], extents: dict[str, tuple[int, int]]) -> Iterator[TarSample]:
    for key, (start, length) in sorted(extents.items()):
        spool.seek(start)
        yield TarSample(key=key, members={"jpg": spool.read(length)})
