"""Killed trainings: whether they end with the weights, samples and metrics of an undisturbed one.

    python -m benchmarks.kill_training --kills 20 --workers 1
    python -m benchmarks.kill_training --kills 20 --workers 2

A short training runs undisturbed, then once more under kills: with SIGKILL, at random, a rank, the driver or the node's raylet,
while a rank waits for data, in a step, while a checkpoint is written or uploaded. A rank is replaced by Ray Train; after a driver
or a raylet what is left of the node is killed as well, and the same command runs again. In the end everything is compared: the
weights, the samples of every batch that any attempt read, the losses in MLflow, the number of runs.
"""

import itertools
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import psutil
import torch
import tyro
from mlflow.tracking import MlflowClient
from rich.console import Console
from rich.table import Table

from benchmarks.processes import KilledDriver, build_tiny, command_line, is_raylet, job_process
from ray_jobs.run_storage import RAY_RECORD_NAME, RunStorage

Victim = Literal["rank", "driver", "raylet"]
Phase = Literal["data", "step", "save", "upload"]
NAME = "killed"
MAX_DIFFERENCE = 1e-4  # of weights, on several ranks
RUN_TIMEOUT_S = 300.0
# Without its raylet a rank goes on by itself for a quarter of a minute; then its machine is gone as well.
_ORPHANED_S = 3.0
_POLL_S = 0.001
# Checkpoints come every three steps: a controller that looks for one every two seconds would be the last to be done.
_PROCESS = job_process(RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.1")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished training left behind."""

    step: int
    weights: dict[str, torch.Tensor]
    batches: dict[str, list[list[str]]]  # keys that any attempt read, by rank, type and number of the batch
    losses: dict[str, list[tuple[int, float]]]
    statuses: list[str]  # of the MLflow runs


def main(*, kills: int = 20, workers: int = 1, steps: int = 400, seed: int = 0, run: Path | None = None) -> None:
    """Kill, compare, print a table, and fail where anything differs.

    Args:
        kills: so many.
        workers: ranks.
        steps: of the training.
        seed: of whom and when.
        run: train into this folder, and measure nothing; a run of this script that another one watches.
    """
    if run is not None:
        _train(run, workers=workers, steps=steps)
        return
    console = Console()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_tiny(folder / "data")
        started = time.monotonic()
        undisturbed = _Training(folder / "undisturbed", data=folder / "data", workers=workers, steps=steps)
        undisturbed.finish()
        console.print(f"undisturbed: {time.monotonic() - started:.0f} s", highlight=False)
        killed = _Training(folder / "killed", data=folder / "data", workers=workers, steps=steps)
        started = time.monotonic()
        for number, (victim, phase) in enumerate(_plan(kills, random.Random(seed)), start=1):
            killed.kill(victim, phase, rng=random.Random(f"{seed}-{number}"))
            seconds = time.monotonic() - started
            console.print(
                f"kill {number}: {victim} in {phase}, after step {killed.step()}, {seconds:.0f} s", highlight=False
            )
        killed.finish()
        table, problems = compare(undisturbed.outcome(), killed.outcome(), killed, workers=workers)
        table.title = f"{len(killed.kills)} kills, {workers} worker(s), {time.monotonic() - started:.0f} s"
        console.print(table)
    for problem in problems:
        console.print(problem, soft_wrap=True, highlight=False)
    if problems:
        raise SystemExit(1)


def _plan(count: int, rng: random.Random) -> list[tuple[Victim, Phase]]:
    """Every pair of victim and phase as often as any other, give or take one, in random order."""
    pairs: list[tuple[Victim, Phase]] = list(itertools.product(get_args(Victim), get_args(Phase)))
    rounds = (rng.sample(pairs, len(pairs)) for _ in itertools.count())
    return list(itertools.islice(itertools.chain.from_iterable(rounds), count))


def compare(expected: Outcome, found: Outcome, killed: "_Training", *, workers: int) -> tuple[Table, list[str]]:
    """A table of what was compared, and what is not as it should be."""
    difference = max(float((value - found.weights[name]).abs().max()) for name, value in expected.weights.items())
    different_batches = [
        place
        for place, attempts in found.batches.items()
        if any(keys != expected.batches.get(place, [None])[0] for keys in attempts)
    ]
    missing = expected.batches.keys() - found.batches.keys()
    repeated = sum(len(attempts) - 1 for attempts in found.batches.values())
    twice = [name for name, values in found.losses.items() if len({step for step, _ in values}) != len(values)]
    different_losses = [
        name for name, values in expected.losses.items() if not _close(values, found.losses.get(name, []))
    ]
    limit = 0.0 if workers == 1 else MAX_DIFFERENCE
    rows = [
        ("last step", f"{found.step}", found.step == expected.step),
        (f"largest difference of a weight, limit {limit:g}", f"{difference:.2g}", difference <= limit),
        ("batches", f"{len(found.batches):,}", not missing),
        ("batches that were read again after a kill", f"{repeated:,}", True),
        ("batches with other samples", f"{len(different_batches)}", not different_batches),
        ("logged losses that differ or are missing", f"{len(different_losses)}", not different_losses),
        ("metrics with a step twice", f"{len(twice)}", not twice),
        ("MLflow runs", ", ".join(found.statuses), found.statuses == ["FINISHED"]),
        ("runs of the command", f"{killed.num_runs}", True),
        ("runs that failed by themselves", f"{len(killed.errors)}", not killed.errors),
    ]
    table = Table("what", "figure", "", title_justify="left")
    for victim in get_args(Victim):
        counts = Counter(phase for who, phase in killed.kills if who == victim)
        table.add_row(f"kills of the {victim}", ", ".join(f"{phase} {n}" for phase, n in sorted(counts.items())), "")
    for what, figure, is_right in rows:
        table.add_row(what, figure, "" if is_right else "WRONG")
    return table, [f"{what}: {figure}" for what, figure, is_right in rows if not is_right] + killed.errors


def _close(expected: list[tuple[int, float]], found: list[tuple[int, float]]) -> bool:
    return len(expected) == len(found) and all(
        a[0] == b[0] and abs(a[1] - b[1]) <= MAX_DIFFERENCE * max(1.0, abs(a[1]))
        for a, b in zip(expected, found, strict=True)
    )


class _Training(KilledDriver):
    """One training, and the command that runs it, as often as it takes.

    Attributes:
        folder: of its runs, its MLflow database and what it writes down.
        kills: so far, in their order.
    """

    def __init__(self, folder: Path, *, data: Path, workers: int, steps: int) -> None:
        folder.mkdir()
        (folder / "data").symlink_to(data)
        self.folder = folder
        self.kills: list[tuple[Victim, Phase]] = []
        sizes = ("--workers", str(workers), "--steps", str(steps))
        command = [sys.executable, "-m", "benchmarks.kill_training", "--run", str(folder), *sizes]
        super().__init__(command, log=folder / "log", process=_PROCESS)

    def kill(self, victim: Victim, phase: Phase, *, rng: random.Random) -> None:
        """Wait for the phase, then for a random part of a step, and kill.

        Raises:
            RuntimeError: the training ended, or a run failed by itself.
        """
        self._run()
        end = time.monotonic() + RUN_TIMEOUT_S
        seen = self.where()  # of an earlier kill
        while True:
            while not self._is_in(phase) or self.where() == seen:
                if time.monotonic() > end:
                    raise RuntimeError(f"no {phase} within {RUN_TIMEOUT_S:.0f} s; see {self.folder / 'log'}")
                if not self.is_running():
                    self.note_failure()
                    if self._is_done() or self.errors:
                        raise RuntimeError(f"it ended before the kill: {self.errors or 'give it more steps'}")
                    self._run()
                time.sleep(_POLL_S)
            time.sleep(rng.random() * {"data": 0.01, "step": 0.1, "save": 0.02, "upload": 0.03}[phase])
            with suppress(psutil.NoSuchProcess):
                self._process_of(victim, rng).kill()
                break
        self.kills.append((victim, phase))
        if victim != "rank":
            self.was_killed = True
            self._wait(_ORPHANED_S)

    def where(self) -> str:
        """What the first rank said last of where it is."""
        with suppress(FileNotFoundError):
            return (self.folder / "phase").read_text()
        return ""

    def step(self) -> int:
        """Of the newest checkpoint."""
        steps = RunStorage(root=self.folder / "runs", name=NAME).steps()
        return steps[-1] if steps else 0

    def finish(self) -> None:
        """Run to the end, and end what killed drivers have left running."""
        while not self._is_done() and not self.errors:
            self._run()
            self._wait(RUN_TIMEOUT_S)

    def outcome(self) -> Outcome:
        """What the finished training left."""
        if self.errors:
            raise SystemExit(self.errors[0])
        result = torch.load(self.folder / "result.pt", weights_only=True)
        client = MlflowClient(f"sqlite:///{self.folder / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("detclipv2")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        losses = {
            name: [(m.step, m.value) for m in client.get_metric_history(runs[0].info.run_id, name)]
            for name in runs[0].data.metrics
            if name.startswith("loss/")
        }
        batches: dict[str, list[list[str]]] = {}
        for path in sorted(self.folder.glob("batches-*.jsonl")):
            for line in path.read_text().splitlines():
                with suppress(json.JSONDecodeError):  # cut off by a kill
                    place, keys = json.loads(line)
                    batches.setdefault(place, []).append(keys)
        return Outcome(
            step=result["step"],
            weights=result["weights"],
            batches=batches,
            losses=losses,
            statuses=[run.info.status for run in runs],
        )

    def _is_in(self, phase: Phase) -> bool:
        if phase != "upload":
            return self.where().startswith(phase)
        # From the making of its folder until Ray Train has entered it.
        newest = max((self.folder / "runs" / NAME).glob("step_*"), default=None)
        with suppress(FileNotFoundError):
            return newest is not None and newest.name not in (self.folder / "runs" / NAME / RAY_RECORD_NAME).read_text()
        return newest is not None

    def _process_of(self, victim: Victim, rng: random.Random) -> psutil.Process:
        if victim == "driver":
            return self.process
        found = self.descendants(_is_rank if victim == "rank" else is_raylet)
        if not found:
            raise psutil.NoSuchProcess(0)
        return rng.choice(found)

    def _run(self) -> None:
        if not self.is_running() and not self._is_done():
            self.start()

    def _wait(self, timeout_s: float) -> None:
        """Until this run ends, or, of one that was killed, for a while; then end what it leaves behind."""
        self.wait(timeout_s, has_to_end=not self.was_killed)
        self.end_descendants()

    def _is_done(self) -> bool:
        return (self.folder / "result.pt").is_file() and not self.is_running()


def _is_rank(process: psutil.Process) -> bool:
    return "RayTrainWorker" in command_line(process)


def _train(folder: Path, *, workers: int, steps: int) -> None:
    """The training itself: `pretrain` with a worker function that says where it is and writes down what it reads."""
    from dataclasses import replace

    from ray_jobs import pretrain
    from ray_jobs.job_config import load_recipe

    job = load_recipe("demo:pretrain")
    small: dict[str, Any] = {
        name: replace(settings, batch_size=2, image_size=64) for name, settings in job.train.supervisions().items()
    }
    job = replace(
        job,
        name=NAME,
        data=folder / "data/datasets/tiny/MANIFEST.json",
        outputs=folder,
        num_workers=workers,
        max_failures=100,
        train=replace(job.train, num_steps=steps, image_text_after=3, log_every=2, checkpoint_every=3, **small),
        model=replace(job.model, drop_path=0.1),
    )
    pretrain.train_worker = watched_worker
    run = pretrain.pretrain(job, console=Console())
    torch.save({"step": run.state.step, "weights": run.state.model}, folder / ".result.pt")
    (folder / ".result.pt").replace(folder / "result.pt")


def watched_worker(config: dict[str, Any]) -> int:
    """`train_worker`, whose streams and hooks write down where it is."""
    from ray_jobs import worker

    folder = config["args"].job.outputs
    build = worker.build_training

    def build_watched(*args: Any, **kwargs: Any) -> Any:
        from dataclasses import replace

        training = build(*args, **kwargs)
        streams: Any = {name: _Watched(stream, folder, kwargs["rank"]) for name, stream in training.streams.items()}
        return replace(training, streams=streams)

    worker.build_training = build_watched
    worker.RankZeroHooks = _watched_hooks(worker.RankZeroHooks, folder)  # type: ignore[misc]
    return worker.train_worker(config)


def _say(folder: Path, phase: str) -> None:
    (folder / f".phase-{os.getpid()}").write_text(f"{phase} {os.getpid()} {time.time_ns()}")
    (folder / f".phase-{os.getpid()}").replace(folder / "phase")


class _Watched:
    """A stream that writes down the keys of every batch."""

    def __init__(self, stream: Any, folder: Path, rank: int) -> None:
        self._stream = stream
        self._folder = folder
        self._rank = rank

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def batches(self, history: Any = (), done: int = 0) -> Iterator[Any]:
        """The stream's batches."""
        batches = self._stream.batches(history, done)
        path = self._folder / f"batches-{self._rank}-{self._stream.supervision}.jsonl"
        for number in range(done, 2**62):
            if self._rank == 0:
                _say(self._folder, "data")
            batch = next(batches)
            with path.open("a") as log:
                log.write(json.dumps([f"{self._rank} {self._stream.supervision} {number}", batch.keys]) + "\n")
            if self._rank == 0:
                _say(self._folder, "step")
            yield batch


def _watched_hooks(base: Any, folder: Path) -> Any:
    class Hooks(base):
        def save(self, step: int, state: Any) -> None:
            _say(folder, "save")
            super().save(step, state)

    return Hooks


if __name__ == "__main__":
    tyro.cli(main)
