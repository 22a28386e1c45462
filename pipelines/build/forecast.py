"""Build plan: which shards of which asset would run, why, and what that costs. Writes and downloads nothing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pipelines.build.asset_inputs import AssetInputs
from pipelines.build.asset_rates import EGRESS_BYTES_PER_URL, Rate, rate_of, read_measured
from pipelines.build.assets import ASSETS, Asset
from pipelines.build.build_config import BuildConfig
from pipelines.build.due import NEW, summarize_reasons
from pipelines.build.job import Job
from pipelines.build.retries import Retries, reasons_of
from pipelines.build.runner import Runner
from pipelines.storage import PublishedTable, read_tables
from schemas.shard_index import source_of


@dataclass(frozen=True, kw_only=True)
class AssetForecast:
    """What would run of one asset.

    Attributes:
        asset: its name.
        due: jobs that are due, whatever the others give.
        reasons: why, one each.
        up_to_date: the tables that need not run, by shard.
        waiting_for: what the rest depends on, such as "2 new shards of images"; empty where all its inputs are published.
        num_waiting: jobs that wait.
        num_new_shards, num_new_rows: shards that its children get anew, with their rows. A global asset runs as a whole but
            gives most shards as they were; all that its inputs left alone count as such.
        num_rows: rows that it would read: an upper bound, since drops are not predicted.
        seconds, egress_bytes, storage_bytes: what that takes.
        is_measured: by rates of earlier builds in this root, else by defaults.
    """

    asset: str
    due: Sequence[Job] = ()
    reasons: Sequence[str] = ()
    up_to_date: dict[str, PublishedTable] = field(default_factory=dict)
    waiting_for: str = ""
    num_waiting: int = 0
    num_new_shards: int = 0
    num_new_rows: int = 0
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
        if self.waiting_for:
            words.append(
                f"{self.num_waiting} depend on {self.waiting_for}" if words else f"depends on {self.waiting_for}"
            )
        return "; ".join(words) or "up to date"


def forecast(config: BuildConfig, *, retry: str | None = None) -> list[AssetForecast]:
    """One entry an asset, in the order of the build; assets of which the dataset has nothing are left out.

    ``retry`` is as of `pipelines.build.dagster_assets.build`.

    Raises:
        ValueError: the options are at fault.
    """
    dataset = config.dataset()
    runner = Runner(config.root, dataset=dataset.name)
    found: dict[str, AssetForecast] = {}
    inputs = AssetInputs(
        dataset=dataset,
        root=runner.root,
        tables=lambda asset: found[asset].up_to_date,
        retries=Retries.read(runner.root),
    )
    measured = read_measured(runner.root)
    for name, asset in ASSETS.items():
        if name == "images" and retry is not None:
            reasons = reasons_of(retry)
            retries = inputs.retries.with_retry_of(inputs.downloads(), dataset.download, reasons=reasons)
            inputs = replace(inputs, retries=retries)
        entry = _forecast_of(asset, inputs, runner, [found[parent] for parent in asset.parents])
        rate = rate_of(name, measured, default=asset.rate)
        found[name] = replace(_priced(entry, rate), is_measured=name in measured)
    return [entry for entry in found.values() if entry.num_jobs or entry.up_to_date]


def _forecast_of(asset: Asset, inputs: AssetInputs, runner: Runner, parents: Sequence[AssetForecast]) -> AssetForecast:
    """Without its price."""
    if asset.is_absent(inputs.dataset):
        return AssetForecast(asset=asset.name)
    changing = [parent for parent in parents if parent.num_new_shards]
    if asset.is_global and changing:
        return _waiting_global(asset, parents, changing)
    jobs = asset.jobs(inputs)
    reasons = runner.reasons(asset.name, jobs)
    due = [job for job in jobs if reasons[job.shard] is not None]
    up_to_date = {job.shard: job.fingerprint for job in jobs if reasons[job.shard] is None}
    tables = read_tables(inputs.root, asset.name, up_to_date)
    num_new_shards, waiting_rows = _waiting(changing, inputs)
    num_waiting = math.ceil(num_new_shards / asset.shards_per_job)
    num_due = sum(len(job.inputs) for job in due) if asset.is_global else len(due)
    num_rows = sum(job.num_rows for job in due) + waiting_rows
    return AssetForecast(
        asset=asset.name,
        due=due,
        reasons=[reason for reason in reasons.values() if reason is not None],
        up_to_date={shard: table for shard, table in tables.items() if table is not None},
        waiting_for=_waiting_for(changing[0]) if changing else "",
        num_waiting=num_waiting,
        num_new_shards=num_due + num_waiting,
        num_new_rows=num_rows,
        num_rows=num_rows,
    )


def _waiting_global(asset: Asset, parents: Sequence[AssetForecast], changing: Sequence[AssetForecast]) -> AssetForecast:
    """Its only job reads what is up to date, too."""
    num_new_rows = sum(parent.num_new_rows for parent in changing)
    num_old_rows = sum(table.manifest.rows_kept for parent in parents for table in parent.up_to_date.values())
    return AssetForecast(
        asset=asset.name,
        waiting_for=_waiting_for(changing[0]),
        num_waiting=1,
        num_new_shards=sum(parent.num_new_shards for parent in changing),
        num_new_rows=num_new_rows,
        num_rows=asset.rows_per_job or num_old_rows + num_new_rows,
    )


def _waiting(changing: Sequence[AssetForecast], inputs: AssetInputs) -> tuple[int, int]:
    """How many shards of an asset wait for parents, and their rows."""
    if not changing:
        return 0, 0
    parent = max(changing, key=lambda entry: entry.num_new_shards)
    if parent.asset != "urls":
        return parent.num_new_shards, parent.num_new_rows
    num_shards = sum(max(1, math.ceil(job.num_rows / inputs.dataset.pairs_per_shard)) for job in parent.due)
    return num_shards, parent.num_new_rows


def _waiting_for(parent: AssetForecast) -> str:
    """What the children of an asset wait for: the first asset upstream that runs; URLs are one only for images."""
    if parent.asset == "images" and parent.num_jobs:
        word = "new" if set(parent.reasons) <= {NEW} else "changed"
        return f"{_shards(parent.num_jobs, word)} of images"
    if parent.waiting_for:
        return parent.waiting_for
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


def _priced(entry: AssetForecast, rate: Rate) -> AssetForecast:
    num_urls = entry.num_rows if entry.asset == "images" else 0
    num_ingested = sum(job.num_rows for job in entry.due if job.config.get("ingest"))
    return replace(
        entry,
        seconds=entry.num_rows / rate.rows_per_s,
        egress_bytes=(num_urls - num_ingested) * EGRESS_BYTES_PER_URL if num_urls else 0,
        storage_bytes=round(entry.num_rows * rate.bytes_per_row),
    )
