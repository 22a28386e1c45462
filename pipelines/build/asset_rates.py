"""How fast each asset went in earlier builds of a data root, and how many bytes a row took: ``<root>/rates.json``.

Manifests hold no time, so that equal inputs give equal bytes; this file beside them is for forecasts alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, TypeAdapter

from pipelines.storage import Location, write_text_atomically

RATES_NAME = "rates.json"
# The real web sends images of this size on average (130 MB/s at 1,000 images/s over Conceptual Captions); a measured
# figure would need the bytes that a download throws away.
EGRESS_BYTES_PER_URL = 130_000


class Measured(BaseModel):
    """Sums over all runs of an asset. A row is what its jobs count: a pair, or an image with boxes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_rows: int
    seconds: float
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Rate:
    """What a row costs."""

    rows_per_s: float
    bytes_per_row: float


# Of one machine of a few cores; what a root has measured itself takes their place.
DEFAULTS: Mapping[str, Rate] = {
    "urls": Rate(rows_per_s=100_000, bytes_per_row=180),
    "images": Rate(rows_per_s=100, bytes_per_row=25_000),
    "filtered": Rate(rows_per_s=50_000, bytes_per_row=200),
    "deduplicated": Rate(rows_per_s=50_000, bytes_per_row=200),
    "held_out": Rate(rows_per_s=50_000, bytes_per_row=200),
    "noun_phrases": Rate(rows_per_s=500, bytes_per_row=250),
    "phrase_bounds": Rate(rows_per_s=200_000, bytes_per_row=1),
    "balanced": Rate(rows_per_s=50_000, bytes_per_row=250),
    "phrase_counts": Rate(rows_per_s=200_000, bytes_per_row=20),
    "statistics": Rate(rows_per_s=200_000, bytes_per_row=20),
    "image_text_shards": Rate(rows_per_s=5_000, bytes_per_row=25_000),
    "detection_shards": Rate(rows_per_s=30, bytes_per_row=200_000),
    "grounding_shards": Rate(rows_per_s=30, bytes_per_row=150_000),
    "validation": Rate(rows_per_s=1, bytes_per_row=0),
}
_RATES = TypeAdapter(dict[str, Measured])


def read_measured(root: Location) -> dict[str, Measured]:
    """What the builds of a data root measured, by asset; a damaged file counts as none, since only forecasts need it."""
    path = root / RATES_NAME
    try:
        return _RATES.validate_json(path.read_text()) if path.is_file() else {}
    except ValueError:
        return {}


def record(root: Location, asset: str, *, num_rows: int, seconds: float, num_bytes: int) -> None:
    """Add what a run measured."""
    measured = read_measured(root)
    before = measured.get(asset, Measured(num_rows=0, seconds=0, num_bytes=0))
    measured[asset] = Measured(
        num_rows=before.num_rows + num_rows,
        seconds=round(before.seconds + seconds, 3),
        num_bytes=before.num_bytes + num_bytes,
    )
    write_text_atomically(root / RATES_NAME, _RATES.dump_json(measured, indent=1).decode() + "\n")


def rate_of(asset: str, measured: Mapping[str, Measured]) -> Rate:
    """As measured, else the default."""
    found = measured.get(asset)
    if found is None or not found.num_rows or not found.seconds:
        return DEFAULTS[asset]
    return Rate(rows_per_s=found.num_rows / found.seconds, bytes_per_row=found.num_bytes / found.num_rows)
