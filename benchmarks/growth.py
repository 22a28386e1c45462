"""Incremental dataset builds: what growth costs, and what memory a larger dataset takes, with emoji scenes.

    python -m benchmarks.growth                # four times the pairs: rows of each asset, and what is fetched again
    python -m benchmarks.growth --memory       # peak memory at the scale and at ten times it

Work is counted in rows that the jobs of an asset read, of pairs and of counts, from the manifests of the tables that a build
made. Growing to four times the pairs has three times the new pairs; ``deduplicated`` compares all of them and ``statistics``
adds up the counts of all, so that both read four times the rows. The sum over all assets has to stay within the target.
"""

import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.processes import command_line, job_process, resident_bytes, resident_tree_bytes
from pipelines.build.assets import ASSETS
from pipelines.build.build_config import BuildConfig
from pipelines.build.dagster_assets import build
from pipelines.build.scales import SCALES, Scale
from pipelines.sources.small_web import REQUEST_LOG_NAME
from schemas.manifest import MANIFEST_NAME, Manifest

NAME = "growth"
GROWTH = 4
MAX_WORK = 3.2
TIMES_MEMORY = 10
MAX_MEMORY = 1.15
SAMPLE_INTERVAL_S = 0.2
# No image is held out, and no phrase is out of bounds where there is no bound.
ASSETS_OF_PAIRS = [
    name
    for name, asset in ASSETS.items()
    if asset.unit in ("pairs", "phrases") and name not in ("held_out", "phrase_bounds")
]
# They read rows of all shards whenever one is new.
OVER_ALL = [name for name in ASSETS_OF_PAIRS if ASSETS[name].is_global]


def main(
    *, pairs: int = 1000, pairs_per_shard: int = 250, memory: bool = False, only_build: Path | None = None
) -> None:
    """Measure, print a table, and fail beyond a target.

    Args:
        pairs: of the scale that grows.
        pairs_per_shard: rows of a shard of URLs.
        memory: measure memory instead of work.
        only_build: build into this data root, and measure nothing; a run of this script in which another one looks.
    """
    if only_build is not None:
        SCALES[NAME] = Scale(
            num_pairs=pairs,
            num_detection=pairs // 10,
            num_grounding=pairs // 10,
            num_validation=20,
            pairs_per_shard=pairs_per_shard,
            images_per_shard=50,
        )
        build(BuildConfig(scale=NAME, root=only_build))
        return
    with tempfile.TemporaryDirectory() as name:
        (measure_memory if memory else measure_work)(Path(name), pairs=pairs, pairs_per_shard=pairs_per_shard)


@dataclass(frozen=True, kw_only=True)
class Step:
    """Rows that each asset read in one build, its seconds, and the requests of the downloads in their order."""

    rows: Counter[str]
    seconds: float
    requests: list[tuple[str, int]]  # URL, status


def measure_work(root: Path, *, pairs: int, pairs_per_shard: int) -> None:
    """Build, grow, and compare.

    Raises:
        SystemExit: all assets together, or one that runs a shard at a time, did more work than they may, or a URL was
            fetched again.
    """
    first = built(root, pairs=pairs, pairs_per_shard=pairs_per_shard)
    grown = built(root, pairs=GROWTH * pairs, pairs_per_shard=pairs_per_shard)
    completed = {url for url, status in first.requests if status == 200 and not url.endswith("/robots.txt")}
    refetched = sorted(completed & {url for url, _ in grown.requests})

    table = Table("asset", "reads", title=f"rows read: {pairs:,} pairs, then {GROWTH * pairs:,}", title_justify="left")
    for column in ("build", "growth", "ratio"):
        table.add_column(column, justify="right")
    per_shard = [asset for asset in ASSETS_OF_PAIRS if asset not in OVER_ALL]
    sums = {"sum, new shards": per_shard, "sum, all": OVER_ALL, "sum": ASSETS_OF_PAIRS}
    lines = {**{asset: [asset] for asset in ASSETS_OF_PAIRS}, **sums}
    ratios = {}
    for label, assets in lines.items():
        before, after = (sum(step.rows[asset] for asset in assets) for step in (first, grown))
        ratios[label] = after / before
        reads = "" if label in sums else "all" if label in OVER_ALL else "new shards"
        table.add_row(label, reads, f"{before:,}", f"{after:,}", f"{ratios[label]:.2f}")
    table.add_row("seconds", "", f"{first.seconds:.0f}", f"{grown.seconds:.0f}", f"{grown.seconds / first.seconds:.2f}")
    console = Console()
    console.print(table)
    console.print(f"{len(completed):,} URLs were complete before; fetched again: {len(refetched)}", highlight=False)
    over = [label for label in [*per_shard, "sum"] if ratios[label] > MAX_WORK]
    if over or refetched:
        raise SystemExit(f"more than {MAX_WORK} times the work: {over}; fetched again: {refetched[:5]}")


def built(root: Path, *, pairs: int, pairs_per_shard: int) -> Step:
    """One build, in a process of its own."""
    manifests = set(root.glob(f"*/*/{MANIFEST_NAME}"))
    log = root / "small_web" / REQUEST_LOG_NAME
    num_requests = len(requests_of(log))
    started = time.monotonic()
    with building(root, pairs=pairs, pairs_per_shard=pairs_per_shard) as process:
        process.wait()
    rows: Counter[str] = Counter()
    for path in set(root.glob(f"*/*/{MANIFEST_NAME}")) - manifests:
        if path.parent.parent.name in ASSETS:
            manifest = Manifest.model_validate_json(path.read_text())
            rows[manifest.stage] += manifest.rows_in
    return Step(rows=rows, seconds=time.monotonic() - started, requests=requests_of(log)[num_requests:])


def requests_of(log: Path) -> list[tuple[str, int]]:
    """What the small web was asked for."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [(line["url"], line["status"]) for line in map(json.loads, lines)]


@contextmanager
def building(root: Path, *, pairs: int, pairs_per_shard: int) -> Iterator[psutil.Popen]:
    """A build in a process of its own, which has to end well."""
    sizes = ["--pairs", str(pairs), "--pairs-per-shard", str(pairs_per_shard)]
    command = [sys.executable, "-m", "benchmarks.growth", "--only-build", str(root), *sizes]
    process = psutil.Popen(command, **job_process())
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()
    if process.returncode != 0:
        raise SystemExit(f"the build of {pairs:,} pairs failed with status {process.returncode}; its error is above")


@dataclass(kw_only=True)
class Peaks:
    """Largest resident sizes that were seen of a process, in bytes.

    What a process shares with no other would be less, but it grows whenever another process that had the same libraries ends.
    """

    driver: int = 0
    worker: int = 0  # of Ray's workers, with the process in which it decodes images

    def look(self, driver: psutil.Process) -> None:
        """Sample all processes of a build."""
        self.driver = max(self.driver, resident_bytes(driver))
        for process in driver.children(recursive=True):
            with suppress(psutil.Error):  # it has ended
                if command_line(process).startswith("ray::"):
                    self.worker = max(self.worker, resident_tree_bytes(process))


def measure_memory(root: Path, *, pairs: int, pairs_per_shard: int) -> None:
    """Build at both scales, each from nothing, and compare.

    Raises:
        SystemExit: driver or workers took more memory at the larger scale than they may.
    """
    peaks = []
    for scale in (pairs, TIMES_MEMORY * pairs):
        peak = Peaks()
        with building(root / str(scale), pairs=scale, pairs_per_shard=pairs_per_shard) as process:
            while process.poll() is None:
                peak.look(process)
                time.sleep(SAMPLE_INTERVAL_S)
        shutil.rmtree(root / str(scale))
        peaks.append(peak)
    table = Table("peak resident size, MiB", f"{pairs:,} pairs", f"{TIMES_MEMORY * pairs:,} pairs", "ratio")
    ratios = {}
    for label in ("driver", "worker"):
        small, large = (getattr(peak, label) for peak in peaks)
        ratios[label] = large / small
        table.add_row(label, f"{small / 2**20:.0f}", f"{large / 2**20:.0f}", f"{ratios[label]:.3f}")
    Console().print(table)
    if max(ratios.values()) > MAX_MEMORY:
        raise SystemExit(f"memory grows with the dataset by more than {MAX_MEMORY}")


if __name__ == "__main__":
    tyro.cli(main)
