"""IMAGES to WebDataset shards: images with their ``TrainingSample``, and an index of each shard."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.storage.parquet import write_parquet
from pipelines.storage.tars import TarSample, read_tar, tar_extents, write_tar
from schemas.manifest import FileEntry
from schemas.shard_index import SHARD_INDEX, index_name
from schemas.source_images import ShardImage
from schemas.training import CaptionPhrases, TrainingSample


def write_image_text_shard(path: Path, table: pa.Table, *, images_tar: Path) -> FileEntry:
    """Write the shard of a PHRASES table, and its index beside it.

    The rows are in any order; ``images_tar`` has ``<key>.jpg`` of at least these, as the download stage wrote it. Rows with the
    same URL and the same bytes are captions of one image and become one sample: under the first of their keys, the captions in
    the order of theirs. In the tar's entry ``path`` is the bare file name and ``num_rows`` the number of samples.

    Raises:
        ValueError: ``images_tar`` is damaged or lacks an image of the table.
        OSError: the disk is full.
    """
    return write_shard(path, _image_text_images(table, images_tar))


def write_shard(path: Path, images: Iterable[ShardImage]) -> FileEntry:
    """Write a shard of images whose keys ascend, such as those of a source with boxes; see `write_image_text_shard`."""
    figures: list[dict[str, int]] = []

    def samples() -> Iterator[TarSample]:
        for image in images:
            figures.append(index_figures(image.sample))
            members = {"jpg": image.jpeg, "json": image.sample.model_dump_json().encode()}
            yield TarSample(key=image.key, members=members)

    entry = write_tar(path, samples())
    rows = [asdict(extent) | row for extent, row in zip(tar_extents(path), figures, strict=True)]
    write_parquet(pa.Table.from_pylist(rows, schema=SHARD_INDEX), path.with_name(index_name(path.name)))
    return entry


def index_figures(sample: TrainingSample) -> dict[str, int]:
    """What the index of a shard says of a sample, besides its place in the tar; concepts are those of all its captions."""
    return {
        "num_boxes": len(sample.boxes_xyxy),
        "num_concepts": len(sample.concepts) + sum(len(other.concepts) for other in sample.other_captions),
        "width": sample.width,
        "height": sample.height,
    }


def _image_text_images(table: pa.Table, images_tar: Path) -> Iterator[ShardImage]:
    rows_of = _rows_by_image(table)
    for image in read_tar(images_tar):
        rows = rows_of.pop(image.key, None)
        if rows is None:
            continue
        first, *others = rows
        sample = TrainingSample(
            supervision="image_text",
            width=first["width"],
            height=first["height"],
            concepts=first["phrases"],
            caption=first["caption"],
            other_captions=[CaptionPhrases(caption=row["caption"], concepts=row["phrases"]) for row in others],
        )
        yield ShardImage(key=image.key, jpeg=image.members["jpg"], sample=sample)
    if rows_of:
        raise ValueError(f"{images_tar} has no image for key {min(rows_of)}: it is not the tar of this table")


def _rows_by_image(table: pa.Table) -> dict[str, list[dict[str, Any]]]:
    """The captions of each image in the order of their keys, by the first of these. An image without a hash has one."""
    columns = table.select(["key", "url", "sha256", "caption", "width", "height", "phrases"]).sort_by("key")
    by_image: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in columns.to_pylist():
        by_image.setdefault((row["url"], row["sha256"] or row["key"]), []).append(row)
    return {rows[0]["key"]: rows for rows in by_image.values()}
