"""Job runner: one call an asset. Skips what is published and verified, runs the rest, and says which, how many and why."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from detclipv2.terminal import InertConsole
from pipelines.build.asset_rates import record
from pipelines.build.due import reason_to_run, summarize_reasons
from pipelines.build.execute import JobResult, run_here, run_on_ray
from pipelines.build.job import Job
from pipelines.storage import (
    NUM_CONCURRENT,
    WHOLE,
    Location,
    PublishedTable,
    data_root,
    kept_files,
    locked,
    read_tables,
)
from pipelines.storage.dataset_tables import DATASETS, DatasetTables

# In this process (global stages, and what takes a second or two), as tasks of Ray Data, or in its actors (what loads a model).
Where = Literal["here", "ray", "actors"]
Around = Callable[[list[Job]], AbstractContextManager[list[Job]]]


@dataclass(frozen=True, kw_only=True)
class AssetRun:
    """What one call did: the asset's tables by shard, and how many of them ran, for which reasons."""

    asset: str
    tables: dict[str, PublishedTable]
    reasons: list[str]
    seconds: float

    @property
    def rows_in(self) -> int:
        return sum(table.manifest.rows_in for table in self.tables.values())

    @property
    def rows_kept(self) -> int:
        return sum(table.manifest.rows_kept for table in self.tables.values())

    @property
    def dropped(self) -> dict[str, int]:
        """Rows by drop reason, the most frequent first."""
        counts = Counter[str]()
        for table in self.tables.values():
            counts.update(table.manifest.dropped)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    @property
    def line(self) -> str:
        """One line for a person: what ran, and why."""
        is_whole = WHOLE in self.tables
        total = (len(kept_files(self.tables)) if is_whole else 0) or len(self.tables)
        if not self.reasons:
            return f"{self.asset:<18} up to date: {total} of {total} shards verified"
        shards = f"over all {total} shards" if is_whole else f"{len(self.reasons)} of {total} shards"
        reasons = self.reasons[0] if is_whole else summarize_reasons(self.reasons)
        return f"{self.asset:<18} ran {shards} in {self.seconds:.1f} s: {reasons}"


class Runner:
    """Runs the assets of one dataset in one data root.

    From the index of the dataset's tables (`pipelines.storage.dataset_tables`) the next asset finds its inputs and the next build
    the reason why a shard is due.
    """

    def __init__(self, root: Location, *, dataset: str, console: Console | None = None) -> None:
        self.root = data_root(root)
        self.folder = self.root / DATASETS / dataset
        self._index = DatasetTables(root=self.root, folder=self.folder)
        self.console = console or InertConsole()

    def run(self, asset: str, jobs: Sequence[Job], *, where: Where, around: Around = nullcontext) -> AssetRun:
        """Bring an asset, the stage of all ``jobs``, up to date.

        ``around`` is a context that what runs needs (a web server, say); it gets the jobs that are due and yields them ready.

        Raises:
            ValueError: a job could not do its work for a reason that a person can fix.
            RuntimeError: a job failed otherwise; the traceback is in the message. In both cases the other shards' tables
                are published, and the next build continues there.
        """
        assert len({job.fingerprint for job in jobs}) == len(jobs), f"{asset}: two shards would share a table"
        started = time.monotonic()
        with locked(self.root, asset) as lease:
            reasons = self.reasons(asset, jobs)
            due = [job for job in jobs if reasons[job.shard] is not None]
            run_started = time.monotonic()
            self._index.start(asset, {job.shard: job.fingerprint for job in due})
            failed = self._run_due(asset, due, lease=lease, where=where, around=around) if due else []
            run_seconds = time.monotonic() - run_started
            self._index.finish(asset, {job.shard: job.fingerprint for job in jobs})
            if due and not failed:  # the time of a failure is no measure
                self._record_rate(asset, due, seconds=run_seconds)
        if failed:
            raise _failure(asset, failed, total=len(jobs))
        run = AssetRun(
            asset=asset,
            tables=self.tables(asset),
            reasons=[reason for reason in reasons.values() if reason is not None],
            seconds=time.monotonic() - started,
        )
        if jobs:  # without any the dataset has no such data
            self.console.print(run.line, highlight=False, soft_wrap=True)
        return run

    def reasons(self, asset: str, jobs: Sequence[Job]) -> dict[str, str | None]:
        """By shard why a job is due, or None where its table is published and verified. Nothing is written."""
        last = self._index.fingerprints(asset)
        with ThreadPoolExecutor(NUM_CONCURRENT) as pool:
            found = pool.map(lambda j: reason_to_run(j, root=self.root, last_fingerprint=last.get(j.shard)), jobs)
            return dict(zip((job.shard for job in jobs), found, strict=True))

    def tables(self, asset: str) -> dict[str, PublishedTable]:
        """The tables that the dataset has now, by shard, in order.

        Raises:
            ValueError: the asset was not built yet, or a table was removed since.
        """
        tables = self._index.read(asset)
        missing = [shard for shard, table in tables.items() if table is None]
        if missing or not self._index.is_built(asset):
            shards = f" ({', '.join(missing)})" if missing else ""
            raise ValueError(f"{self.folder.name}: {asset} is not complete{shards}: build it first")
        return {shard: table for shard, table in tables.items() if table is not None}

    def _run_due(self, asset: str, due: list[Job], *, lease: str, where: Where, around: Around) -> list[JobResult]:
        """Run jobs under a progress bar; return the failures."""
        columns = (
            TextColumn("{task.description:<18}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("rows, {task.fields[num_shards]} of {task.fields[total_shards]} shards"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        progress = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        with progress, around(due) as ready:
            num_rows = sum(job.num_rows for job in ready)
            task = progress.add_task(asset, total=num_rows, num_shards=0, total_shards=len(ready))
            if where == "here":
                results = run_here(ready, root=self.root, lease=lease)
            else:
                results = run_on_ray(ready, root=self.root, lease=lease, in_actors=where == "actors")
            finished = []
            for result in results:
                finished.append(result)
                progress.update(task, advance=result.job.num_rows, num_shards=len(finished))
        return [result for result in finished if result.error]

    def _record_rate(self, asset: str, due: list[Job], *, seconds: float) -> None:
        made = read_tables(self.root, asset, {job.shard: job.fingerprint for job in due}).values()
        num_bytes = sum(entry.num_bytes for table in made if table is not None for entry in table.manifest.files)
        record(self.root, asset, num_rows=sum(job.num_rows for job in due), seconds=seconds, num_bytes=num_bytes)


def _failure(asset: str, failed: list[JobResult], *, total: int) -> Exception:
    first = min(failed, key=lambda result: (not result.details, result.job.shard))
    where = asset
    if first.job.shard != WHOLE and total > 1:
        where = f"{asset} failed on {len(failed)} of {total} shards, first {first.job.shard}"
    if first.details:
        return RuntimeError(f"{where}: {first.error}\n{first.details}")
    return ValueError(
        f"{where}: {first.error}; what is finished is kept, run the same command again once this is fixed"
    )
