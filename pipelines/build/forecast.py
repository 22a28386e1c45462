"""What a build would do: which shards of which asset would run, why, and what that costs. Writes and downloads nothing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipelines.build.build_config import BuildConfig
from pipelines.build.runner import Runner
from pipelines.build.phrase_jobs import SHARDS_PER_COUNT
from pipelines.build.due import NEW, summarize_reasons
from pipelines.build.asset_rates import EGRESS_BYTES_PER_URL, Measured, rate_of, read_measured
from pipelines.build.retries import Retries, reasons_of
from pipelines.build.job import Job
from pipelines.storage import PublishedTable, read_tables
from pipelines.build.assets import ASSETS, Walk, source_of


@dataclass(frozen=True, kw_only=True)
class AssetForecast:
    """What would run of one asset.

    Attributes:
        asset: its name.
        due: jobs that are due, whatever the others give.
        reasons: why, one each.
        standing: the tables that need not run, by shard.
        cause: what else of it waits for, such as "2 new shards of images"; empty where all its inputs stand.
        num_waiting: jobs that wait.
        num_moving, moving_rows: shards that its children get anew, with their rows. A global asset runs as a whole but gives
            most shards as they were; here all that its inputs left alone count as such.
        num_rows: rows that it would read: an upper bound, since nothing is dropped on paper.
        seconds, egress_bytes, storage_bytes: what that takes.
        is_measured: by rates of earlier builds in this root, else by defaults.
    """

    asset: str
    due: Sequence[Job] = ()
    reasons: Sequence[str] = ()
    standing: dict[str, PublishedTable] = field(default_factory=dict)
    cause: str = ""
    num_waiting: int = 0
    num_moving: int = 0
    moving_rows: int = 0
    num_rows: int = 0
    seconds: float = 0.0
    egress_bytes: int = 0
    storage_bytes: int = 0
    is_measured: bool = False

    @property
    def num_jobs(self) -> int:
        """That would run."""
        return len(self.due) + self.num_waiting

    @property
    def why(self) -> str:
        """For a person."""
        words = [f"{summarize_reasons(list(self.reasons))} ({_names(self.due)})"] if self.reasons else []
        if self.cause:
            words.append(f"{self.num_waiting} depend on {self.cause}" if words else f"depends on {self.cause}")
        return "; ".join(words) or "up to date"


def forecast(config: BuildConfig, *, retry: str | None = None) -> list[AssetForecast]:
    """One entry an asset, in the order of the street; assets of which the dataset has nothing are left out.

    Args:
        config: what would be built.
        retry: as of `pipelines.build.dagster_assets.build`.

    Raises:
        ValueError: the options are at fault.
    """
    dataset = config.dataset()
    runner = Runner(config.root, dataset=dataset.name)
    found: dict[str, AssetForecast] = {}
    walk = Walk(
        dataset=dataset,
        root=runner.root,
        tables=lambda asset: found[asset].standing,
        retries=Retries.read(runner.root),
    )
    measured = read_measured(runner.root)
    for asset in ASSETS:
        if asset == "images" and retry is not None:
            reasons = reasons_of(retry)
            walk = replace(
                walk, retries=walk.retries.with_retry_of(walk.downloads(), dataset.download, reasons=reasons)
            )
        found[asset] = _priced(_forecast_of(asset, walk, runner, found), measured)
    return [entry for entry in found.values() if entry.num_jobs or entry.standing]


def _forecast_of(asset: str, walk: Walk, runner: Runner, found: dict[str, AssetForecast]) -> AssetForecast:
    """Without its price."""
    parents = [found[parent] for parent in ASSETS[asset].parents]
    moving = [parent for parent in parents if parent.num_moving]
    absent = {
        "held_out": walk.dataset.held_out is None,
        "phrase_bounds": not walk.dataset.balance.is_bounded,
        "validation": walk.dataset.validation is None,
    }
    if absent.get(asset):
        return AssetForecast(asset=asset)
    if ASSETS[asset].is_global and moving:
        return _waiting_global(asset, parents, moving)
    jobs = walk.jobs(asset)
    reasons = runner.reasons(asset, jobs)
    due = [job for job in jobs if reasons[job.shard] is not None]
    standing = {job.shard: job.fingerprint for job in jobs if reasons[job.shard] is None}
    tables = read_tables(walk.root, asset, standing)
    due_rows = sum(job.num_rows for job in due)
    num_waiting, waiting_rows = _waiting(moving, walk)
    if asset == "phrase_counts":
        num_waiting = math.ceil(num_waiting / SHARDS_PER_COUNT)
    num_due = sum(len(job.inputs) for job in due) if ASSETS[asset].is_global else len(due)
    return AssetForecast(
        asset=asset,
        due=due,
        reasons=[reason for reason in reasons.values() if reason is not None],
        standing={shard: table for shard, table in tables.items() if table is not None},
        cause=_cause(moving[0]) if moving else "",
        num_waiting=num_waiting,
        num_moving=num_due + num_waiting,
        moving_rows=due_rows + waiting_rows,
        num_rows=due_rows + waiting_rows,
    )


def _waiting_global(asset: str, parents: Sequence[AssetForecast], moving: Sequence[AssetForecast]) -> AssetForecast:
    """Its only job reads what stands, too."""
    num_moving, moving_rows = sum(p.num_moving for p in moving), sum(p.moving_rows for p in moving)
    standing_rows = sum(table.manifest.rows_kept for parent in parents for table in parent.standing.values())
    return AssetForecast(
        asset=asset,
        cause=_cause(moving[0]),
        num_waiting=1,
        num_moving=num_moving,
        moving_rows=moving_rows,
        num_rows=1 if asset == "validation" else standing_rows + moving_rows,
    )


def _waiting(moving: Sequence[AssetForecast], walk: Walk) -> tuple[int, int]:
    """How many shards of an asset wait for parents, and their rows."""
    if not moving:
        return 0, 0
    parent = max(moving, key=lambda entry: entry.num_moving)
    if parent.asset != "urls":
        return parent.num_moving, parent.moving_rows
    num_shards = sum(max(1, math.ceil(job.num_rows / walk.dataset.pairs_per_shard)) for job in parent.due)
    return num_shards, parent.moving_rows


def _cause(parent: AssetForecast) -> str:
    """What the children of an asset wait for: the first thing on the street that runs; URLs are one only for images."""
    if parent.asset == "images" and parent.num_jobs:
        word = "new" if set(parent.reasons) <= {NEW} else "changed"
        return f"{_shards(parent.num_jobs, word)} of images"
    if parent.cause:
        return parent.cause
    word = "new" if set(parent.reasons) == {NEW} else "changed"
    return f"{_shards(len(parent.due), word)} of {parent.asset}"


def _names(jobs: Sequence[Job]) -> str:
    """The shards' names, by source where there are several: ``cc12m-00000 to cc12m-01242``."""
    shards: dict[str, list[str]] = {}
    for job in jobs:
        shards.setdefault(source_of(job.shard), []).append(job.shard)
    parts = (names[0] if len(names) == 1 else f"{len(names)} of {names[0]} to {names[-1]}" for names in shards.values())
    return ", ".join(parts)


def _shards(count: int, word: str) -> str:
    return f"{count} {word} shard{'' if count == 1 else 's'}"


def _priced(entry: AssetForecast, measured: Mapping[str, Measured]) -> AssetForecast:
    rate = rate_of(entry.asset, measured)
    num_urls = entry.num_rows if entry.asset == "images" else 0
    num_ingested = sum(job.num_rows for job in entry.due if job.config.get("ingest"))
    return replace(
        entry,
        seconds=entry.num_rows / rate.rows_per_s,
        egress_bytes=(num_urls - num_ingested) * EGRESS_BYTES_PER_URL if num_urls else 0,
        storage_bytes=round(entry.num_rows * rate.bytes_per_row),
        is_measured=entry.asset in measured,
    )
