"""A forecast as a person reads it."""

from collections.abc import Sequence

from rich.table import Table

from pipelines.build.forecast import AssetForecast


def forecast_table(entries: Sequence[AssetForecast]) -> Table:
    """For a person: one row an asset, and the sums."""
    table = Table(title="plan: nothing has run", title_justify="left")
    table.add_column("asset", no_wrap=True)
    for column in ("runs", "stands", "rows"):
        table.add_column(column, justify="right")
    table.add_column("why", ratio=1)
    for column in ("time", "egress", "storage"):
        table.add_column(column, justify="right")
    for entry in entries:
        about = "" if entry.is_measured else "~"
        runs = f"{entry.num_jobs:,}" if entry.num_jobs else "-"
        cost = (
            (
                about + _duration(entry.seconds),
                _size(entry.egress_bytes) if entry.egress_bytes else "",
                about + _size(entry.storage_bytes),
            )
            if entry.num_jobs
            else ("", "", "")
        )
        rows = f"{entry.num_rows:,}" if entry.num_jobs else ""
        table.add_row(entry.asset, runs, f"{len(entry.standing):,}", rows, entry.why, *cost)
    table.add_section()
    sums = [sum(getattr(entry, name) for entry in entries) for name in ("seconds", "egress_bytes", "storage_bytes")]
    num_jobs = sum(entry.num_jobs for entry in entries)
    table.add_row("in all", f"{num_jobs:,}", "", "", "", _duration(sums[0]), _size(sums[1]), _size(sums[2]))
    table.caption = "Upper bounds: no row is dropped on paper. ~: by default rates; others as measured in this root."
    table.caption_justify = "left"
    return table


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.0f} h"


def _size(num_bytes: float) -> str:
    """In powers of ten, as providers count."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"
