"""Build plan as a table for a terminal."""

from collections.abc import Sequence

from humanize import naturalsize
from rich.table import Column, Table

from pipelines.build.forecast import AssetForecast


def forecast_table(entries: Sequence[AssetForecast]) -> Table:
    """For a person: one row an asset, and the sums."""
    counts = (Column(name, justify="right") for name in ("runs", "up to date", "rows"))
    costs = (Column(name, justify="right") for name in ("time", "egress", "storage"))
    columns = (Column("asset", no_wrap=True), *counts, Column("why", ratio=1), *costs)
    table = Table(*columns, title="plan: nothing has run", title_justify="left")
    for entry in entries:
        about = "" if entry.is_measured else "~"
        runs = f"{entry.num_jobs:,}" if entry.num_jobs else "-"
        rows = f"{entry.num_rows:,}" if entry.num_jobs else ""
        cells = [entry.asset, runs, f"{len(entry.up_to_date):,}", rows, entry.why]
        if entry.num_jobs:
            egress = _size(entry.egress_bytes) if entry.egress_bytes else ""
            cells += [about + _duration(entry.seconds), egress, about + _size(entry.storage_bytes)]
        table.add_row(*cells)
    table.add_section()
    sums = [sum(getattr(entry, name) for entry in entries) for name in ("seconds", "egress_bytes", "storage_bytes")]
    num_jobs = sum(entry.num_jobs for entry in entries)
    table.add_row("in all", f"{num_jobs:,}", "", "", "", _duration(sums[0]), _size(sums[1]), _size(sums[2]))
    table.caption = "Upper bounds: drops are not predicted. ~: by default rates; others as measured in this root."
    table.caption_justify = "left"
    return table


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.0f} h"


def _size(num_bytes: float) -> str:
    """In powers of ten, as providers count."""
    return naturalsize(num_bytes, format="%.0f" if num_bytes < 1e12 else "%.1f")
