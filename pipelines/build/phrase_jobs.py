"""Jobs over noun phrases: which are out of bounds, the shards balanced by that, and how often each occurs."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from pipelines.build.job import Job
from pipelines.build.jobs import read_rows
from pipelines.stages.balance import Balance
from pipelines.stages.statistics import STATISTICS_VERSION, add_counts, count_heads, count_phrases
from pipelines.storage import WHOLE, TableFile, Written, write_parquet, write_split
from schemas.tables import MENTIONS, OUT_OF_BOUNDS, PHRASE_COUNTS, PHRASES
from schemas.versions import schema_id

BOUNDS_FILE = "bounds.parquet"
PHRASE_COUNTS_FILE = "phrases.parquet"
HEAD_COUNTS_FILE = "heads.parquet"

# Phrases are counted for so many shards at once: adding up the counts is then less than counting them again, as most
# phrases occur in several shards, and of the shards that are there growth counts at most three again.
SHARDS_PER_COUNT = 4


def bounds_job(asset: str, balance: Balance, files: Sequence[TableFile]) -> Job:
    """The phrases that are too rare or too common over all shards."""
    work = partial(_write_bounds, balance, files)
    return Job.over(files, stage=asset, version=balance.version, shard=WHOLE, config=balance.config, work=work)


def balance_job(asset: str, balance: Balance, file: TableFile, bounds: TableFile | None, *, shard: str) -> Job:
    """One shard balanced; ``bounds`` is what `bounds_job` wrote, where the stage has bounds."""
    return Job(
        stage=asset,
        version=balance.version,
        shard=shard,
        config={**balance.config, "schema": schema_id(balance.output_schema)},
        inputs=(file,) if bounds is None else (file, bounds),
        num_rows=file.num_rows,
        work=partial(_write_balanced, balance, file, bounds),
    )


def phrase_count_jobs(asset: str, files: Mapping[str, TableFile], *, source: str) -> list[Job]:
    """How many pairs of each `SHARDS_PER_COUNT` shards of a source have a phrase.

    Args:
        asset: its name.
        files: by shard; a source that grows appends shards.
        source: their source.
    """
    shards = sorted(files)
    jobs = []
    for i, start in enumerate(range(0, len(shards), SHARDS_PER_COUNT)):
        inputs = [files[shard] for shard in shards[start : start + SHARDS_PER_COUNT]]
        work = partial(_write_phrase_counts, inputs)
        shard = f"{source}-{i:05d}"
        jobs.append(Job.over(inputs, stage=asset, version=STATISTICS_VERSION, shard=shard, config={}, work=work))
    return jobs


def statistics_job(asset: str, files: Sequence[TableFile]) -> Job:
    """How often each phrase and head noun occurs over all shards, from the counts of some of them each."""
    work = partial(_write_statistics, files)
    return Job.over(files, stage=asset, version=STATISTICS_VERSION, shard=WHOLE, config={}, work=work)


def _write_bounds(balance: Balance, files: Sequence[TableFile], folder: Path) -> Written:
    num_rows = sum(file.num_rows for file in files)
    bounds = balance.out_of_bounds(read_rows(file, MENTIONS) for file in files)
    write_parquet(bounds, folder / BOUNDS_FILE)
    return Written(rows_in=num_rows, rows_kept=num_rows, num_rows={BOUNDS_FILE: len(bounds)})


def _write_balanced(balance: Balance, file: TableFile, bounds: TableFile | None, folder: Path) -> Written:
    out_of_bounds = None if bounds is None else read_rows(bounds, OUT_OF_BOUNDS)
    balanced = balance(read_rows(file, PHRASES), out_of_bounds=out_of_bounds)
    return write_split(balanced, folder, schema=PHRASES, where=f"{balance.name} of {file.name}")


def _write_phrase_counts(files: Sequence[TableFile], folder: Path) -> Written:
    num_rows = sum(file.num_rows for file in files)
    counts = count_phrases((read_rows(file, MENTIONS) for file in files), num_threads=1)
    write_parquet(counts, folder / PHRASE_COUNTS_FILE)
    return Written(rows_in=num_rows, rows_kept=num_rows, num_rows={PHRASE_COUNTS_FILE: len(counts)})


def _write_statistics(files: Sequence[TableFile], folder: Path) -> Written:
    num_rows = sum(file.num_rows for file in files)
    phrases = add_counts(read_rows(file, PHRASE_COUNTS) for file in files)
    heads = count_heads(phrases)
    write_parquet(phrases, folder / PHRASE_COUNTS_FILE)
    write_parquet(heads, folder / HEAD_COUNTS_FILE)
    return Written(
        rows_in=num_rows, rows_kept=num_rows, num_rows={PHRASE_COUNTS_FILE: len(phrases), HEAD_COUNTS_FILE: len(heads)}
    )
