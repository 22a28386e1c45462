"""Held-out images: what is kept for evaluation leaves the training data."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.sources.held_out_images import HeldOutImages
from schemas.tables import IMAGES, with_drop_reason


@dataclass(frozen=True, kw_only=True)
class HoldOut:
    """IMAGES to IMAGES. Drops ``held_out``: a COCO id in the URL's file name, the same bytes, or nearly the same image.

    Its place is after `pipelines.stages.dedup.Dedup`, where an image is one row, and before the parsing of captions.
    """

    images: HeldOutImages

    name: ClassVar[str] = "hold_out"
    version: ClassVar[int] = 1
    input_schema: ClassVar[pa.Schema] = IMAGES
    output_schema: ClassVar[pa.Schema] = IMAGES

    @property
    def config(self) -> dict[str, Any]:
        return self.images.config

    def __call__(self, table: pa.Table) -> pa.Table:
        """IMAGES with ``drop_reason``, in the order of ``table``."""
        same_bytes = pc.is_in(table["sha256"], value_set=pa.array(sorted(self.images.all_sha256), pa.string()))
        is_held_out = same_bytes.to_numpy() | self.images.is_near(table["phash"].to_pylist())
        by_name = [self.images.has_name([url.partition("?")[0]]) for url in table["url"].to_pylist()]
        is_held_out |= np.array(by_name, bool)
        reason = pc.if_else(pa.array(is_held_out), "held_out", pa.scalar(None, pa.string()))
        return table.append_column("drop_reason", reason).cast(with_drop_reason(IMAGES))
