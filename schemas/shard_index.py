"""Shard index: where each sample lies in the tar of a training shard, so that a reader can start at any; names of shards."""

from pathlib import PurePosixPath

import pyarrow as pa

# One row a sample, in the order of the tar. `offset` and `num_bytes` span its members with their headers, so that the bytes from
# `offset` on are a tar of the samples from this one on.
SHARD_INDEX = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("num_bytes", pa.int64(), nullable=False),
        pa.field("num_boxes", pa.int32(), nullable=False),
        pa.field("num_concepts", pa.int32(), nullable=False),  # category names, or phrases
        pa.field("width", pa.int32(), nullable=False),  # of the image, in pixels
        pa.field("height", pa.int32(), nullable=False),
    ]
)


def index_name(shard_name: str) -> str:
    """The index of ``<shard>.tar`` is ``<shard>.index.parquet`` beside it."""
    return str(PurePosixPath(shard_name).with_suffix(".index.parquet"))


def source_of(shard_name: str) -> str:
    """The source of a shard: its name up to the first dash, since a source's name has none and a mirror's tars may have some."""
    return shard_name.partition("-")[0]
