"""Folders of small images."""

import io
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipelines.sources.source import PairSource
from schemas.tables import PAIRS


@pytest.fixture
def pairs_of() -> Callable[..., pa.Table]:
    """All pairs that a source lists, or the first ``limit``."""

    def read(source: PairSource, limit: int | None = None, *, num_rows: int = 65_536) -> pa.Table:
        tables = [table for block in source.blocks(limit, num_rows=num_rows) for table in block.read()]
        return pa.concat_tables(tables) if tables else PAIRS.empty_table()

    return read


@pytest.fixture
def noise() -> Callable[..., bytes]:
    """An encoded image of smooth noise, another one for every seed."""

    def encode(seed: int = 0, *, size: tuple[int, int] = (40, 30), format: str = "JPEG") -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(buffer, format=format, quality=95)
        return buffer.getvalue()

    return encode
