"""The end of the street: WebDataset shards of pictures and their ``TrainingSample``."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
from pydantic import ValidationError

from pipelines.sources.source import BoxedImage
from pipelines.stages.tars import TarSample, read_tar, write_tar
from schemas.manifest import FileEntry
from schemas.training import TrainingSample


def write_image_text_shard(path: Path, table: pa.Table, *, images_tar: Path) -> FileEntry:
    """Write the shard of a PHRASES table.

    Args:
        path: the tar to make.
        table: PHRASES, in any order.
        images_tar: ``<key>.jpg`` of at least the table's rows, as the download stage wrote it.

    Returns:
        Its entry, ``path`` being the bare file name and ``num_rows`` the number of samples.

    Raises:
        ValueError: ``images_tar`` is damaged or lacks a picture of the table.
        OSError: the disk is full.
    """
    return write_tar(path, _image_text_samples(table, images_tar))


def write_boxed_shard(path: Path, images: Iterable[BoxedImage]) -> FileEntry:
    """Write a detection or grounding shard of pictures whose keys ascend; see ``write_image_text_shard``."""
    return write_tar(path, (_tar_sample(image.key, image.jpeg, image.sample) for image in images))


def verify_shard(path: Path) -> int:
    """Read a shard from end to end.

    Returns:
        Its number of samples.

    Raises:
        ValueError: it is cut off or damaged, or a sample is not a picture with a ``TrainingSample``; the message says
            how to mend it.
    """
    num_samples = 0
    for sample in read_tar(path):
        if set(sample.members) != {"jpg", "json"}:
            raise ValueError(f"{path}: sample {sample.key} has {sorted(sample.members)}, wanted ['jpg', 'json']")
        try:
            TrainingSample.model_validate_json(sample.members["json"])
        except ValidationError as error:
            raise ValueError(f"{path}: sample {sample.key}: {error}") from error
        num_samples += 1
    return num_samples


def _image_text_samples(table: pa.Table, images_tar: Path) -> Iterator[TarSample]:
    """Both sides ascend by key, so one pass over the tar meets every row."""
    rows = iter(table.select(["key", "caption", "width", "height", "phrases"]).sort_by("key").to_pylist())
    row = next(rows, None)
    for picture in read_tar(images_tar):
        if row is None:
            return
        if picture.key < row["key"]:
            continue
        if picture.key > row["key"]:
            break
        sample = TrainingSample(
            supervision="image_text",
            width=row["width"],
            height=row["height"],
            concepts=row["phrases"],
            caption=row["caption"],
        )
        yield _tar_sample(row["key"], picture.members["jpg"], sample)
        row = next(rows, None)
    if row is not None:
        raise ValueError(f"{images_tar} has no picture for key {row['key']}: it is not the tar of this table")


def _tar_sample(key: str, jpeg: bytes, sample: TrainingSample) -> TarSample:
    return TarSample(key=key, members={"jpg": jpeg, "json": sample.model_dump_json().encode()})
