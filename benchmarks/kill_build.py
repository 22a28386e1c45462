"""Killed dataset builds: whether their files equal those of an undisturbed one, and whether a URL is fetched twice.

    python -m benchmarks.kill_build --pairs 5000 --kills 30

Both builds are of the emoji scenes, whose web runs on loopback and logs what it was asked for and what was taken. Each kill
waits for an asset to run, then for a random part of the time that this asset took undisturbed, and ends, with
SIGKILL, in turn the driver, a Ray worker that runs a task, and the raylet. Then the same command runs again. When a build has
come to its end before all kills are spent, its files are compared and the next one starts afresh.

A URL counts as completed when its client has taken the whole answer (status 200) and has hung up before a kill: of an answer
that was on its way just then, nobody knows how much the client had of it. Those are counted, too, but nothing is asked of them.
"""

import hashlib
import itertools
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import psutil
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.processes import KilledDriver, command_line, is_raylet
from pipelines.build.assets import ASSETS
from pipelines.build.scales import SCALES
from pipelines.sources.emoji_scenes import EmojiScenes
from pipelines.sources.small_web import ANSWER_LOG_NAME, REQUEST_LOG_NAME

Victim = Literal["driver", "worker", "raylet"]
NAME = "killed"
# Most of the time, and all of the fetching, is in the images.
_VISITS = {"images": 6}
# The web and the workers of a killed driver end shortly after it; the next run takes longer until it fetches.
_DYING_S: dict[Victim, float] = {"driver": 2.0, "worker": 0.2, "raylet": 0.2}
# What a worker calls itself while it runs a job: as a task, and as an actor.
_TASKS = ("ray::Map(_run_row)", "ray::MapWorker(Map(_Actor))")
_POLL_S = 0.01
_BUILD_TIMEOUT_S = 600.0
_DRIVER_WITHOUT_RAYLET_S = 60.0
_DRIVER = """
import sys
from pathlib import Path
from benchmarks.kill_build import build_scenes
build_scenes(Path(sys.argv[1]), pairs=int(sys.argv[2]))
"""


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One kill: when (Unix time), by when all had ended that it took down, in which asset, and of what."""

    time_s: float
    ended_s: float
    asset: str
    victim: Victim


@dataclass(kw_only=True)
class Outcome:
    """What a series of builds gave.

    Attributes:
        kills: in their order, of all builds.
        num_builds: builds that came to their end.
        num_runs: how often the command ran for that.
        different: files that are not as in the undisturbed build.
        num_completed: answers that were taken whole before any kill.
        refetched: completed URLs that were asked for again.
        in_flight: URLs asked for again of which an answer was on its way at a kill, or while what was killed came to its end.
        errors: how runs ended that nobody had killed.
    """

    kills: list[Kill] = field(default_factory=list)
    num_builds: int = 0
    num_runs: int = 0
    different: list[str] = field(default_factory=list)
    num_completed: int = 0
    refetched: list[str] = field(default_factory=list)
    in_flight: int = 0
    errors: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not (self.different or self.refetched or self.errors)


def main(*, pairs: int = 5000, kills: int = 30, seed: int = 0, folder: Path | None = None) -> None:
    """Kill builds, print what came of it, and fail where a byte differs or a completed URL was asked for again.

    Args:
        pairs: URLs.
        kills: at least so many.
        seed: of when and whom.
        folder: where to build; a temporary one unless given.
    """
    console = Console()
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=None if folder is None else folder.resolve()) as place:
        started = time.monotonic()
        outcome = kill_builds(Path(place), pairs=pairs, num_kills=kills, seed=seed, console=console)
        console.print(_table(outcome, title=f"{pairs:,} URLs, {time.monotonic() - started:.0f} s"))
    for problem in (*outcome.different, *outcome.refetched, *outcome.errors):
        console.print(problem, soft_wrap=True, highlight=False)
    if not outcome.is_clean or len(outcome.kills) < kills:
        raise SystemExit(1)


def kill_builds(folder: Path, *, pairs: int, num_kills: int, seed: int, console: Console) -> Outcome:
    """Build once undisturbed, then under kills until there are enough of them."""
    rng = random.Random(seed)
    undisturbed = _Build(folder / "undisturbed", pairs=pairs)
    seconds = undisturbed.watch()
    console.print("undisturbed:", ", ".join(f"{asset} {s:.1f} s" for asset, s in seconds.items()), highlight=False)
    expected = published_files(undisturbed.root)
    outcome = Outcome()
    victims: Iterator[Victim] = itertools.cycle(get_args(Victim))
    while len(outcome.kills) < num_kills:
        build = _Build(folder / "killed", pairs=pairs)
        kills: list[Kill] = []
        targets = [asset for asset in seconds for _ in range(_VISITS.get(asset, 1))]
        for target in targets[: num_kills - len(outcome.kills)]:
            kill = build.kill_in(target, share=rng.random(), seconds=seconds, victim=next(victims))
            if kill is None:
                break
            kills.append(kill)
            number = len(outcome.kills) + len(kills)
            console.print(f"kill {number}: {kill.victim} in {kill.asset}, run {build.num_runs}", highlight=False)
        build.finish()
        found = published_files(build.root)
        outcome.kills += kills
        outcome.num_builds += 1
        outcome.num_runs += build.num_runs
        outcome.errors += build.errors
        outcome.different += sorted(
            name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
        )
        _count_requests(build.root / "small_web", kills, outcome)
        if not outcome.is_clean:
            break
        shutil.rmtree(build.root)
    return outcome


def build_scenes(root: Path, *, pairs: int) -> None:
    """One build, in this process."""
    from pipelines.build.build_config import BuildConfig
    from pipelines.build.dagster_assets import build

    SCALES[NAME] = replace(
        SCALES["tiny"], num_pairs=pairs, pairs_per_shard=max(1, pairs // 5), num_detection=400, num_grounding=200
    )
    build(BuildConfig(scale=NAME, root=root))


def published_files(root: Path) -> dict[str, str]:
    """sha256 of every file of the tables and datasets, and of what killed builds would leave there."""
    paths = [path for folder in (*ASSETS, "datasets") for path in (root / folder).rglob("*") if path.is_file()]
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(paths)
        if path.name != ".lock"
    }


class _Build(KilledDriver):
    """One data root, and the command that builds it, run as often as it takes."""

    def __init__(self, root: Path, *, pairs: int) -> None:
        self.root = root
        super().__init__([sys.executable, "-c", _DRIVER, str(root), str(pairs)], log=root.with_suffix(".log"))

    def watch(self) -> dict[str, float]:
        """Build undisturbed; return the seconds of each asset that ran, in their order."""
        seconds: defaultdict[str, float] = defaultdict(float)
        self.start()
        before = time.monotonic()
        while self.is_running():
            time.sleep(_POLL_S)
            now = time.monotonic()
            if (asset := self._asset()) is not None:
                seconds[asset] += now - before
            before = now
        self.finish()
        if self.errors:
            raise SystemExit(f"the undisturbed build failed: {self.errors[0]}")
        return {asset: seconds[asset] for asset in ASSETS if asset in seconds}

    def kill_in(self, target: str, *, share: float, seconds: dict[str, float], victim: Victim) -> Kill | None:
        """Run until ``target`` or a later asset runs and ``share`` of its seconds are over, then kill; None: it was finished."""
        order = list(ASSETS)
        if not self.is_running():
            self.start()
        while (asset := self._asset()) is None or order.index(asset) < order.index(target):
            if not self.is_running():
                if self.succeeded() or self.errors:
                    return None
                self.start()
            time.sleep(_POLL_S)
        time.sleep(share * seconds.get(asset, 0.0))
        if self.succeeded():
            return None
        try:
            while victim == "worker" and self._asset() == asset and self._victim(victim)[1] != victim:
                time.sleep(_POLL_S)  # Ray takes seconds to start one, and some assets need none
            process, name = self._victim(victim)
            self.remember_descendants()
            asset = self._asset() or asset
            time_s = time.time()
            process.kill()
        except psutil.NoSuchProcess:  # it has just ended by itself
            time.sleep(_POLL_S)
            return None if self.succeeded() else self.kill_in(target, share=share, seconds=seconds, victim=victim)
        self.was_killed = True
        if name == "driver":
            self.wait(_BUILD_TIMEOUT_S, has_to_end=True)
        elif name == "raylet":  # without it the driver ends, too
            self.wait(_DRIVER_WITHOUT_RAYLET_S, has_to_end=False)
        return Kill(time_s=time_s, ended_s=time.time() + _DYING_S[name], asset=asset, victim=name)

    def finish(self) -> None:
        """Run to the end, and end what the killed drivers have left running."""
        while not self.succeeded():
            if not self.is_running():
                if self.errors:
                    break
                self.start()
            self.wait(_BUILD_TIMEOUT_S, has_to_end=True)
        self.end_descendants()

    def _asset(self) -> str | None:
        """Which one runs: what an earlier run has left there does not count."""
        due = []
        for path in (self.root / "datasets" / NAME / "due").glob("*.json"):
            with suppress(FileNotFoundError):  # it is done
                due += [path.stem] if path.stat().st_mtime >= self.started_s else []
        # A file that is being written has another name for a moment.
        return min((name for name in due if name in ASSETS), key=list(ASSETS).index, default=None)

    def _victim(self, victim: Victim) -> tuple[psutil.Process, Victim]:
        """The process to kill: the driver where there is no such one now."""
        found = []
        if victim != "driver":
            found = self.descendants(_is_task if victim == "worker" else is_raylet)
        return (found[0], victim) if found else (self.process, "driver")


def _is_task(process: psutil.Process) -> bool:
    return command_line(process).startswith(_TASKS)


def _count_requests(folder: Path, kills: list[Kill], outcome: Outcome) -> None:
    """Enter what a web's logs say of one build."""
    asked: dict[str, list[float]] = {}
    for line in _lines(folder / REQUEST_LOG_NAME):
        asked.setdefault(line["url"], []).append(line["time_s"])
    scenes = EmojiScenes(image_size_px=SCALES["tiny"].image_size_px)
    in_flight = set()
    for line in _lines(folder / ANSWER_LOG_NAME):
        url = line["url"]
        if line["status"] != 200 or scenes.kind_of(int(Path(url).stem)) == "noai":  # of which the body is not read
            continue
        is_cut = any(line["asked_s"] < kill.ended_s and kill.time_s < line["taken_s"] for kill in kills)
        is_again = any(time_s > line["taken_s"] for time_s in asked[url])
        outcome.num_completed += not is_cut
        if is_again and is_cut:
            in_flight.add(url)
        elif is_again:
            outcome.refetched.append(f"{url} was completed and asked for again")
    outcome.in_flight += len(in_flight)


def _lines(path: Path) -> Iterator[dict]:
    with path.open() as lines:
        yield from (json.loads(line) for line in lines)


def _table(outcome: Outcome, *, title: str) -> Table:
    table = Table("kills in", *get_args(Victim), title=title, title_justify="left")
    counts = Counter((kill.asset, kill.victim) for kill in outcome.kills)
    for asset in ASSETS:
        row = [counts[asset, victim] for victim in get_args(Victim)]
        if any(row):
            table.add_row(asset, *(str(count) for count in row))
    table.add_section()
    for what, figure in (
        ("all kills", len(outcome.kills)),
        ("builds brought to their end", outcome.num_builds),
        ("runs of the command", outcome.num_runs),
        ("files that differ", len(outcome.different)),
        ("completed answers", outcome.num_completed),
        ("completed URLs asked for again", len(outcome.refetched)),
        ("in flight at a kill, asked for again", outcome.in_flight),
    ):
        table.add_row(what, f"{figure:,}")
    return table


if __name__ == "__main__":
    tyro.cli(main)
