"""Jobs over noun phrases: which are out of bounds, the shards balanced by that, and how often each occurs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa

from pipelines.build.job import Job
from pipelines.build.jobs import read_rows
from pipelines.stages.balance import Balance
from pipelines.stages.statistics import STATISTICS_VERSION, add_counts, count_heads, count_phrases
from pipelines.storage import WHOLE, TableFile, Written, write_parquet, write_split
from schemas.tables import MENTIONS, OUT_OF_BOUNDS, PHRASE_COUNTS, PHRASES

BOUNDS_FILE = "bounds.parquet"
PHRASE_COUNTS_FILE = "phrases.parquet"
HEAD_COUNTS_FILE = "heads.parquet"

# Phrases are counted for so many shards at once: adding up the counts is then less than counting them again, as most
# phrases occur in several shards, and of the shards that are there growth counts at most three again.
SHARDS_PER_COUNT = 4


def bounds_job(asset: str, balance: Balance, files: Sequence[TableFile]) -> Job:
    """The phrases that are too rare or too common over all shards."""
    work = partial(_write_counts, partial(_bounds, balance), MENTIONS, files)
    return Job.over(files, stage=asset, version=balance.version, shard=WHOLE, config=balance.config, work=work)


def balance_job(asset: str, balance: Balance, file: TableFile, bounds: TableFile | None, *, shard: str) -> Job:
    """One shard balanced; ``bounds`` is what `bounds_job` wrote, where the stage has bounds."""
    inputs = (file,) if bounds is None else (file, bounds)
    work = partial(_write_balanced, balance, file, bounds)
    return Job.of(asset, balance, shard=shard, inputs=inputs, num_rows=file.num_rows, work=work)


def phrase_count_jobs(asset: str, files: Mapping[str, TableFile], *, source: str) -> list[Job]:
    """How many pairs of each `SHARDS_PER_COUNT` shards of a source have a phrase; a source that grows appends shards."""
    ordered = [files[shard] for shard in sorted(files)]
    jobs = []
    for i, start in enumerate(range(0, len(ordered), SHARDS_PER_COUNT)):
        inputs, shard = ordered[start : start + SHARDS_PER_COUNT], f"{source}-{i:05d}"
        work = partial(_write_counts, _phrase_counts, MENTIONS, inputs)
        jobs.append(Job.over(inputs, stage=asset, version=STATISTICS_VERSION, shard=shard, config={}, work=work))
    return jobs


def statistics_job(asset: str, files: Sequence[TableFile]) -> Job:
    """How often each phrase and head noun occurs over all shards, from the counts of some of them each."""
    work = partial(_write_counts, _statistics, PHRASE_COUNTS, files)
    return Job.over(files, stage=asset, version=STATISTICS_VERSION, shard=WHOLE, config={}, work=work)


def _bounds(balance: Balance, tables: Iterable[pa.Table]) -> dict[str, pa.Table]:
    return {BOUNDS_FILE: balance.out_of_bounds(tables)}


def _phrase_counts(tables: Iterable[pa.Table]) -> dict[str, pa.Table]:
    return {PHRASE_COUNTS_FILE: count_phrases(tables, num_threads=1)}


def _statistics(tables: Iterable[pa.Table]) -> dict[str, pa.Table]:
    phrases = add_counts(tables)
    return {PHRASE_COUNTS_FILE: phrases, HEAD_COUNTS_FILE: count_heads(phrases)}


def _write_counts(
    count: Callable[[Iterable[pa.Table]], dict[str, pa.Table]],
    schema: pa.Schema,
    files: Sequence[TableFile],
    folder: Path,
) -> Written:
    """What ``count`` makes of some files, by the name of the file that it goes into."""
    counts = count(read_rows(file, schema) for file in files)
    for name, table in counts.items():
        write_parquet(table, folder / name)
    num_rows = sum(file.num_rows for file in files)
    return Written(rows_in=num_rows, rows_kept=num_rows, num_rows={name: len(table) for name, table in counts.items()})


def _write_balanced(balance: Balance, file: TableFile, bounds: TableFile | None, folder: Path) -> Written:
    out_of_bounds = None if bounds is None else read_rows(bounds, OUT_OF_BOUNDS)
    balanced = balance(read_rows(file, PHRASES), out_of_bounds=out_of_bounds)
    return write_split(balanced, folder, schema=PHRASES, where=f"{balance.name} of {file.name}")
