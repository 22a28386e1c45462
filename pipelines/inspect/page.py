"""Funnel and figures of a dataset, for a terminal and as one self-contained HTML page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from humanize import naturalsize
from rich.table import Column, Table

from pipelines.inspect.stats import DatasetStats, SplitStats
from pipelines.storage import format_counts

NUM_REASONS_SHOWN = 3
MAX_BARS = 16


def funnel_tables(stats: DatasetStats) -> list[Table]:
    """One table a source: rows in and kept by asset, and the most frequent reasons."""
    tables = []
    for source, steps in stats.funnels.items():
        numbers = (Column(name, justify="right") for name in ("in", "kept", "%"))
        title = f"source {source}"
        table = Table("asset", "unit", *numbers, "dropped, by reason", title=title, title_justify="left")
        for step in steps:
            shown = dict(list(step.dropped.items())[:NUM_REASONS_SHOWN])
            others = sum(step.dropped.values()) - sum(shown.values())
            reasons = format_counts(shown) + (f", others {others:,}" if others else "")
            share = _percent(step.rows_kept, step.rows_in)
            table.add_row(step.asset, step.unit, f"{step.rows_in:,}", f"{step.rows_kept:,}", share, reasons)
        tables.append(table)
    return tables


def split_table(stats: DatasetStats) -> Table:
    """One row a supervision type: samples, captions, shards, bytes, boxes and concepts per image."""
    title = f"dataset {stats.name}, version {stats.digest[:16]}; means of an image"
    names = ("samples", "captions", "shards", "bytes", "image", "boxes", "concepts")
    numbers = (Column(name, justify="right", no_wrap=True) for name in names)
    table = Table(Column("supervision", no_wrap=True), *numbers, title=title, title_justify="left")
    for split in stats.splits:
        table.add_row(
            split.supervision,
            f"{split.num_samples:,}",
            f"{split.num_captions:,}" if split.num_captions else "-",
            f"{len(split.shard_bytes):,}",
            size(sum(split.shard_bytes)),
            size(sum(split.shard_bytes) / split.num_samples),
            f"{_mean(split.boxes_per_image):.1f}",
            f"{_mean(split.concepts_per_image):.1f}",
        )
    return table


def write_page(path: Path, stats: DatasetStats) -> None:
    """Write the HTML page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(size=size)
    page = environment.get_template("funnel.html.jinja").render(
        stats=stats, percent=_percent, splits=[_shown(split) for split in stats.splits]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def size(num_bytes: float) -> str:
    """``1.5 MiB``."""
    return naturalsize(num_bytes, binary=True, format="%.0f" if num_bytes < 1024 else "%.1f").replace("Bytes", "B")


def _shown(split: SplitStats) -> dict[str, Any]:
    if split.supervision == "image_text":
        counted, histograms = "pairs", {"phrases per image": split.concepts_per_image}
    else:
        counted = "boxes"
        histograms = {"concepts per image": split.concepts_per_image, "boxes per image": split.boxes_per_image}
    return {
        "split": split,
        "counted": counted,
        "histograms": [(title, _mean(counts), _bars(counts)) for title, counts in histograms.items()],
        "most": max((count for _, count in split.top_concepts), default=1),
    }


def _bars(counts: Mapping[int, int]) -> list[tuple[str, int, float]]:
    """Label, count and height relative to the highest; large numbers share the last bar."""
    if not counts:
        return []
    last = min(max(counts), MAX_BARS - 1)
    by_bar = {number: counts.get(number, 0) for number in range(last)}
    by_bar[last] = sum(count for number, count in counts.items() if number >= last)
    highest, open_bar = max(by_bar.values()), last if max(counts) > last else None
    return [
        (f"{number}+" if number == open_bar else str(number), count, count / highest)
        for number, count in by_bar.items()
    ]


def _mean(counts: Mapping[int, int]) -> float:
    total = sum(counts.values())
    return sum(number * count for number, count in counts.items()) / total if total else 0.0


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else "-"
