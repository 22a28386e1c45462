"""Throughput of each asset in earlier builds of a data root, and bytes per row: ``<root>/rates.json``.

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


def rate_of(asset: str, measured: Mapping[str, Measured], *, default: Rate) -> Rate:
    """As measured, else the default."""
    found = measured.get(asset)
    if found is None or not found.num_rows or not found.seconds:
        return default
    return Rate(rows_per_s=found.num_rows / found.seconds, bytes_per_row=found.num_bytes / found.num_rows)
