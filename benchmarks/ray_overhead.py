"""Ray Train overhead: seconds a step under it and under bare `torchrun`, with the same loop, data and model.

    python -m benchmarks.ray_overhead

A step is timed from the end of the one before to its own end, so that hooks, MLflow and the progress board count. Both sides take
turns; the first steps of a run are left out, while caches fill.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.processes import build_tiny, interleaved, job_process
from ray_jobs.job_config import JobConfig, load_recipe
from schemas.manifest import read_dataset_manifest

MAX_RATIO = 1.05
WARM_UP_STEPS = 20
# Ray's workers are nice to others; here both sides have to be.
_PROCESS = job_process(RAY_worker_niceness="0")
Side = Literal["ray", "torchrun"]


def main(*, steps: int = 120, turns: int = 2, workers: int = 2, only: tuple[Side, Path] | None = None) -> None:
    """Measure in turns, print the ratio, and fail beyond the target.

    Args:
        steps: of each training.
        turns: trainings of each side.
        workers: processes that train together.
        only: train one side in this folder, and measure nothing; a run of this script that another one times.
    """
    if only is not None:
        {"ray": _train_on_ray, "torchrun": _train_bare}[only[0]](only[1], steps, workers)
        return
    console = Console()
    with tempfile.TemporaryDirectory() as name:
        build_tiny(Path(name) / "data")
        sides: tuple[Side, ...] = ("torchrun", "ray")
        runs = {side: partial(_step_times, side, Path(name), steps=steps, workers=workers) for side in sides}
        found = interleaved(runs, rounds=turns)
    times = {side: [seconds for run in found[side] for seconds in run] for side in ("ray", "torchrun")}
    table = Table(
        "", "median step, ms", "mean step, ms", title=f"{workers} processes, {steps} steps", title_justify="left"
    )
    for side, values in times.items():
        table.add_row(side, f"{1e3 * statistics.median(values):.1f}", f"{1e3 * statistics.fmean(values):.1f}")
    ratio = statistics.fmean(times["ray"]) / statistics.fmean(times["torchrun"])
    table.add_row("ratio of means", f"{ratio:.3f}", f"target: at most {MAX_RATIO}")
    console.print(table)
    if ratio > MAX_RATIO:
        raise SystemExit(1)


def _step_times(side: Side, folder: Path, *, steps: int, workers: int) -> list[float]:
    """Seconds of each step of one training, in a process of its own, after the warm-up."""
    place = Path(tempfile.mkdtemp(dir=folder, prefix=f"{side}-"))
    (place / "data").symlink_to(folder / "data")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers))
    script = ("benchmarks/ray_overhead.py", "--steps", str(steps), "--workers", str(workers))
    command = [sys.executable, *(launcher if side == "torchrun" else ()), *script, "--only", side, str(place)]
    run = subprocess.run(command, **_PROCESS, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(run.stdout + run.stderr)
    ends = json.loads((place / "ends.json").read_text())
    return [b - a for a, b in zip(ends[WARM_UP_STEPS:], ends[WARM_UP_STEPS + 1 :], strict=False)]


def _job(folder: Path, steps: int, workers: int) -> JobConfig:
    job = load_recipe("demo:pretrain")
    train = replace(job.train, num_steps=steps, image_text_after=0, checkpoint_every=10 * steps)
    data = folder / "data/datasets/tiny/MANIFEST.json"
    return replace(job, name="overhead", data=data, outputs=folder, num_workers=workers, train=train)


class _Timed:
    """Hooks that note when each step ended, and pass everything on to others."""

    def __init__(self, folder: Path, inner: Any = None) -> None:
        self.folder = folder
        self.inner = inner
        self.ends: list[float] = []

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Note the time."""
        if self.inner is not None:
            self.inner.log(step, metrics)
        self.ends.append(time.perf_counter())

    def save(self, step: int, state: Callable[[], Any]) -> None:
        """The end of the training."""
        (self.folder / "ends.json").write_text(json.dumps(self.ends))
        if self.inner is not None:
            self.inner.save(step, state)

    def skipped(self, step: int, skipped: Any) -> None:
        """No such step is expected."""
        raise RuntimeError(f"step {step}: {skipped}")

    def wants_checkpoint(self, step: int) -> bool:
        """What the others say."""
        return False if self.inner is None else bool(self.inner.wants_checkpoint(step))


def _train_bare(folder: Path, steps: int, workers: int) -> None:
    """One process of `torchrun`: the loop, DistributedDataParallel, and nothing else."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from detclipv2.training.loop import train
    from ray_jobs.worker import build_training

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    job = _job(folder, steps, workers)
    dataset = read_dataset_manifest(job.data)
    training = build_training(
        job.for_dataset(dataset),
        dataset,
        data_root=job.data_root,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        device=torch.device("cpu"),
        wrap=lambda model: DistributedDataParallel(model, find_unused_parameters=True),
    )
    own = folder if dist.get_rank() == 0 else Path(tempfile.mkdtemp())
    train(training, _Timed(own))
    dist.destroy_process_group()


def _train_on_ray(folder: Path, steps: int, workers: int) -> None:
    """The training as `ray_jobs/pretrain.py` runs it, with MLflow."""
    from ray_jobs import pretrain

    pretrain.train_worker = timed_worker
    pretrain.pretrain(_job(folder, steps, workers), console=Console())


def timed_worker(config: dict[str, Any]) -> int:
    """`train_worker` with timed hooks on the first rank."""
    from ray_jobs import worker

    make = worker.RankZeroHooks
    module: Any = worker
    module.RankZeroHooks = lambda *args, **kwargs: _Timed(config["args"].job.outputs, make(*args, **kwargs))
    return worker.train_worker(config)


if __name__ == "__main__":
    tyro.cli(main)
