"""Caption statistics: ``python benchmarks/caption_report.py`` prints what filters and noun phrases make of real captions.

The figures of docs/data.md come from it, as Markdown. Without the images, every row has a neutral size and its own image.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

import pyarrow as pa

from benchmarks.captions import CaptionFiles, table_of
from pipelines.stages.filter_presets import PRESETS
from pipelines.stages.noun_phrases import NounPhrases
from pipelines.stages.statistics import count_heads, count_phrases
from pipelines.storage import count_reasons, format_counts, split
from ray_jobs.command_line import run_cli

LONGEST_CAPTION_SHOWN = 100


@dataclass(frozen=True, kw_only=True)
class ReportConfig(CaptionFiles):
    """Print the funnel, the most frequent phrases and a random sample."""

    phrases: int = 50
    """Most frequent phrases shown."""
    sample: int = 26
    """Captions shown, as many of each source."""
    seed: int = 1
    """Of the sample."""


def main(config: ReportConfig) -> None:
    """Run the stages in their order and print."""
    tables = {source: _rows(source, captions) for source, captions in config.read().items()}
    filters, dedup, noun_phrases = PRESETS["datacomp"].filters, PRESETS["filip"].dedup, NounPhrases()
    steps: list[tuple[str, Callable[[Mapping[str, pa.Table]], Mapping[str, pa.Table]], pa.Schema]] = [
        ("filters", lambda tables: {source: filters(table) for source, table in tables.items()}, filters.output_schema),
        ("dedup", dedup, dedup.output_schema),
        (
            "noun phrases",
            lambda tables: {s: noun_phrases(table) for s, table in tables.items()},
            noun_phrases.output_schema,
        ),
    ]
    print("| stage | source | in | kept | dropped, by reason |\n|---|---|---|---|---|")
    for name, stage, schema in steps:
        results = dict(stage(tables))
        for source, table in results.items():
            tables[source], dropped = split(table, schema=schema, where=name)
            reasons = format_counts(count_reasons(dropped)) or "-"
            print(f"| {name} | {source} | {len(table):,} | {len(tables[source]):,} | {reasons} |")
    phrases = count_phrases(tables.values())
    heads = count_heads(phrases)
    num_phrases = sum(phrases["num_pairs"].to_pylist())
    num_pairs = sum(len(table) for table in tables.values())
    print(f"\n{num_phrases:,} phrases, {num_phrases / num_pairs:.2f} a pair, {len(phrases):,} distinct,")
    print(f"{len(heads):,} distinct heads\n")
    print(_counted(phrases, config.phrases), "\n")
    print(_counted(heads, config.phrases), "\n")
    print("| caption | phrases |\n|---|---|")
    for table in tables.values():
        for row in Random(config.seed).sample(table.to_pylist(), config.sample // len(tables)):
            caption = row["caption"].replace("|", "\\|")
            shown = caption if len(caption) <= LONGEST_CAPTION_SHOWN else f"{caption[:LONGEST_CAPTION_SHOWN]}..."
            print(f"| {shown} | {', '.join(row['phrases'])} |")


def _rows(source: str, captions: list[str]) -> pa.Table:
    hashes = [hashlib.sha256(f"{source}/{i}".encode()).hexdigest() for i in range(len(captions))]
    return table_of(captions, key=[h[:16] for h in hashes], sha256=hashes, phash=[h[-16:] for h in hashes])


def _counted(table: pa.Table, count: int) -> str:
    """The first column with the last one, which is how often it occurs."""
    names, counts = (table.column(i).slice(0, count).to_pylist() for i in (0, -1))
    return ", ".join(f"{name} {count:,}" for name, count in zip(names, counts, strict=True))


if __name__ == "__main__":
    run_cli(ReportConfig, main)
