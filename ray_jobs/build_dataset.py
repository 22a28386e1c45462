"""Dataset build: ``python ray_jobs/build_dataset.py --scale demo``, or with data of one's own.

A second run does only what is new or was changed; ``--plan`` says beforehand what that is. The same works as
``ray job submit -- python ray_jobs/build_dataset.py``.
"""

import time
from dataclasses import dataclass

from rich.table import Table

from detclipv2.terminal import InertConsole
from pipelines.build.build_config import BuildConfig
from pipelines.build.dagster_assets import build
from pipelines.build.forecast import forecast
from pipelines.build.forecast_table import forecast_table
from pipelines.storage import format_counts
from ray_jobs.command_line import run_cli
from schemas.manifest import MANIFEST_NAME, DatasetManifest, read_dataset_manifest

NUM_REASONS_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Options(BuildConfig):
    """Build a training dataset: download, filter, deduplicate, parse, balance, pack.

    Of a scale, or with --urls, --detection or --grounding of data of one's own. A second run does only what is new or was
    changed; a larger scale keeps all that a smaller one made.
    """

    plan: bool = False
    """Print which shards would run, why, and what that takes in time, egress and storage; write and download nothing."""
    retry: str | None = None
    """Try again what failed to download, and only that: dns, connection, timeout, 429, 5xx (with commas), or transient."""


def run(options: Options) -> None:
    """Plan, or build."""
    if options.plan:
        InertConsole().print(forecast_table(forecast(options, retry=options.retry)))
    else:
        main(options, retry=options.retry)


def main(config: BuildConfig, *, retry: str | None = None) -> None:
    """Build, then print the funnel of the whole dataset."""
    started = time.monotonic()
    console = InertConsole()
    num_runs = build(config, retry=retry, keep_history=True)
    path = config.root / "datasets" / config.dataset().name / MANIFEST_NAME
    manifest = read_dataset_manifest(path)
    console.print(funnel_table(manifest))
    done = f"{num_runs} tables computed" if num_runs else "nothing to do: everything is up to date"
    console.print(f"{done} ({time.monotonic() - started:.1f} s)")
    console.print(f"dataset: {path}", soft_wrap=True, highlight=False)
    command = "pretrain.py" if manifest.supervisions else "evaluate.py --model MODEL"
    console.print(f"next: python ray_jobs/{command} --data {path}", soft_wrap=True, highlight=False)


def funnel_table(manifest: DatasetManifest) -> Table:
    """One row an asset: rows in and kept, and the most frequent reasons for dropping one."""
    title = f"dataset {manifest.name}, version {manifest.digest[:16]}"
    table = Table("asset", "unit", title=title, title_justify="left")
    for column in ("in", "kept"):
        table.add_column(column, justify="right")
    table.add_column("dropped, by reason")
    for row in manifest.funnel:
        shown = sorted(row["dropped"].items(), key=lambda item: (-item[1], item[0]))[:NUM_REASONS_SHOWN]
        others = sum(row["dropped"].values()) - sum(count for _, count in shown)
        reasons = format_counts(dict(shown)) + (f", others {others:,}" if others else "")
        table.add_row(row["stage"], row["unit"], f"{row['rows_in']:,}", f"{row['rows_kept']:,}", reasons)
    return table


if __name__ == "__main__":
    run_cli(Options, run)
