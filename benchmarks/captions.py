"""Caption processing at web scale: speed of noun phrases, and of filters and deduplication of a million rows.

``python benchmarks/captions.py`` takes noun phrases of real captions by a plain loop and by the stage, in turn, on one
core, and exits with status 1 if the stage is not at least 2.5 times as fast. ``--rows 1000000`` makes so many rows of the
same captions and runs filters (two processes) and deduplication (one process, two threads) on them as a build does;
status 1 if that takes more than 60 s or 4 GiB.
"""

import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from benchmarks.processes import cpu_seconds, interleaved, peak_memory
from pipelines.stages.filter_presets import PRESETS
from pipelines.stages.filters import clean_caption
from pipelines.stages.noun_phrases import NounPhrases
from pipelines.storage import format_counts, write_split
from ray_jobs.command_line import run_cli
from schemas.tables import IMAGES, SCORES

T = TypeVar("T")
R = TypeVar("R")
SHARED_DATA = Path(__file__).parents[1] / "../shared/data"
MIN_SPEEDUP = 2.5
MAX_SECONDS = 60.0
MAX_GIB = 4.0
NUM_WORKERS = 2
ROWS_PER_SHARD = 100_000


@dataclass(frozen=True, kw_only=True)
class CaptionFiles:
    """Where the real captions are."""

    data: Path = SHARED_DATA
    """Folder with cc3m_val_captions and laion_alt_text."""

    def read(self) -> dict[str, list[str]]:
        """The real captions, cleaned, by source.

        Raises:
            ValueError: they are not there.
        """
        cc3m = self.data / "cc3m_val_captions" / "Validation_GCC-1.1.0-Validation.tsv"
        laion = self.data / "laion_alt_text" / "test_10000.parquet"
        for path in (cc3m, laion):
            if not path.is_file():
                raise ValueError(f"no captions at {path}: name the folder that holds them with --data")
        texts = {
            "cc3m": [line.split("\t")[0] for line in cc3m.read_text().splitlines()],
            "laion": pq.read_table(laion)["TEXT"].to_pylist(),
        }
        return {source: [clean_caption(text) for text in captions if text] for source, captions in texts.items()}


@dataclass(frozen=True, kw_only=True)
class CaptionsConfig(CaptionFiles):
    """Measure the stages that read captions."""

    rows: int = 0
    """Rows for filters and deduplication; 0: measure noun phrases instead."""
    captions: int = 4000
    """Real captions for noun phrases, drawn at random."""
    rounds: int = 3
    """Times that both ways take their turn with noun phrases; the median of the ratios counts."""


def main(config: CaptionsConfig) -> None:
    """Measure, print, judge."""
    reached = measure_table(config) if config.rows else measure_phrases(config)
    if not reached:
        sys.exit(1)


def measure_phrases(config: CaptionsConfig) -> bool:
    """Captions a second and core, by spaCy as its manual has it first and by the stage."""
    import spacy

    stage = NounPhrases()
    captions = sorted({caption for captions in config.read().values() for caption in captions})
    captions = [captions[i] for i in np.random.default_rng(0).permutation(len(captions))[: config.captions]]
    table = table_of(captions)
    nlp = spacy.load(stage.model)

    def plain() -> None:
        for caption in captions:
            _ = [chunk.text for chunk in nlp(caption).noun_chunks]

    stage(table.slice(0, 100))
    ways = {"plain": lambda: cpu_seconds(plain), "stage": lambda: cpu_seconds(lambda: stage(table))}
    seconds = np.array(list(interleaved(ways, rounds=config.rounds).values()))
    ratio, (plain_s, stage_s) = float(np.median(seconds[0] / seconds[1])), np.median(seconds, axis=1)
    Console().print(
        f"noun phrases of {len(captions):,} captions: {len(captions) / plain_s:,.0f} captions a second of CPU by a plain"
        f" loop, {len(captions) / stage_s:,.0f} by the stage: {ratio:.2f} times as fast, wanted {MIN_SPEEDUP:g}",
        highlight=False,
        soft_wrap=True,
    )
    return ratio >= MIN_SPEEDUP


def measure_table(config: CaptionsConfig) -> bool:
    """Wall time and the peak of the resident memory of this process and its children together."""
    captions = [caption for captions in config.read().values() for caption in captions]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        in_processes(1, partial(write_rows, captions, config.rows, folder), [0])  # its memory goes with it
        shards = sorted(folder.glob("rows-*.parquet"))
        del captions
        with peak_memory() as peak_bytes:
            started = time.monotonic()
            filtered = in_processes(NUM_WORKERS, filter_shard, shards)
            filters_s = time.monotonic() - started
            [dropped] = in_processes(1, dedup_shards, [folder])
            seconds = time.monotonic() - started
    gib = peak_bytes[0] / 2**30
    console = Console()
    for stage, counts in (("filters", sum(filtered, Counter())), ("dedup", dropped)):
        console.print(f"{stage:<8} dropped {format_counts(counts)}", highlight=False, soft_wrap=True)
    console.print(
        f"{config.rows:,} rows: filters {filters_s:.1f} s, dedup {seconds - filters_s:.1f} s, together {seconds:.1f} s"
        f" and {gib:.2f} GiB on {NUM_WORKERS} cores; wanted {MAX_SECONDS:g} s and {MAX_GIB:g} GiB",
        highlight=False,
        soft_wrap=True,
    )
    return seconds <= MAX_SECONDS and gib <= MAX_GIB


def in_processes(num_processes: int, work: Callable[[T], R], items: list[T]) -> list[R]:
    """Results in the order of ``items``."""
    with ProcessPoolExecutor(num_processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(work, items))


def filter_shard(path: Path) -> Counter[str]:
    """Filter one shard into a folder beside it."""
    stage = PRESETS["filip"].filters
    table = pq.read_table(path)
    written = write_split(stage(table), path.with_suffix(""), schema=stage.output_schema, where=path.name)
    return Counter(written.dropped)


def dedup_shards(folder: Path) -> Counter[str]:
    """Deduplicate what the filters kept."""
    stage = replace(PRESETS["filip"].dedup, num_threads=NUM_WORKERS)
    tables = {path.parent.name: pq.read_table(path) for path in sorted(folder.glob("rows-*/kept.parquet"))}
    dropped: Counter[str] = Counter()
    for shard, table in stage(tables).items():
        written = write_split(table, folder / "deduplicated" / shard, schema=stage.output_schema, where=shard)
        dropped.update(written.dropped)
    return dropped


def write_rows(captions: list[str], num_rows: int, folder: Path, _: int) -> None:
    """Rows as the download stage leaves them, of real captions, in shards.

    Half of the captions are real ones, the others the first half of one and the second of another. One image in ten is
    an earlier one's bytes, one in ten has a hash two bits from an earlier one's. Sizes spread as those of web images.
    """
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, num_rows, dtype=np.uint64)
    kind, earlier = rng.random(num_rows), (rng.random(num_rows) * np.arange(num_rows)).astype(np.int64)
    image = np.where(kind < 0.1, earlier, np.arange(num_rows))
    bits = np.uint64(1) << rng.integers(0, 64, (2, num_rows), dtype=np.uint64)
    hashes = np.where(kind < 0.1, hashes[earlier], np.where(kind < 0.2, hashes[earlier] ^ bits[0] ^ bits[1], hashes))
    sides = np.exp(rng.normal(6.3, 0.6, (2, num_rows))).astype(np.int64) + 1
    scale = np.minimum(1.0, 320 / sides.min(axis=0))
    first, second = rng.integers(0, len(captions), (2, num_rows))
    for start in range(0, num_rows, ROWS_PER_SHARD):
        rows = range(start, min(start + ROWS_PER_SHARD, num_rows))
        table = table_of(
            [captions[first[i]] if i % 2 else _spliced(captions[first[i]], captions[second[i]]) for i in rows],
            key=[f"{i * 0x9E3779B97F4A7C15 % 2**64:016x}" for i in rows],
            url=[f"http://images.test/{i}.jpg" for i in rows],
            original_width=sides[0][rows],
            original_height=sides[1][rows],
            width=(sides * scale)[0][rows].round(),
            height=(sides * scale)[1][rows].round(),
            sha256=[f"{image[i]:064x}" for i in rows],
            phash=[f"{hashes[i]:016x}" for i in rows],
        )
        pq.write_table(table, folder / f"rows-{start // ROWS_PER_SHARD:05d}.parquet")


def table_of(captions: list[str], **columns: object) -> pa.Table:
    """IMAGES of these captions; what ``columns`` does not name is of an image of 320 by 320."""
    num_rows = len(captions)
    constants: dict[str, object] = {"key": "", "url": "", "source": "benchmark", "sha256": "", "phash": "0" * 16}
    sizes = dict.fromkeys(("width", "height", "original_width", "original_height"), 320)
    constants |= sizes | dict.fromkeys(SCORES)
    filled = {name: [value] * num_rows for name, value in constants.items()} | {"caption": captions} | columns
    return pa.table({name: pa.array(filled[name]) for name in IMAGES.names}).cast(IMAGES)


def _spliced(first: str, second: str) -> str:
    begin, end = first.split(), second.split()
    return " ".join(begin[: (len(begin) + 1) // 2] + end[len(end) // 2 :])


if __name__ == "__main__":
    run_cli(CaptionsConfig, main)
