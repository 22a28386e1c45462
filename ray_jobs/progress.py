"""Progress bar of a training that runs on a Ray cluster: rank 0 writes its step to a key-value store, the driver draws it."""

import json
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import timedelta

from ray.experimental import internal_kv
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from detclipv2.config import Supervision

POLL_S = 1.0
_NAMESPACE = "detclipv2.progress"
PRINT_EVERY_S = 15.0  # where there is no terminal to redraw
_FORGETTING = 0.05  # weight of the newest step in the mean time of its type


@dataclass(frozen=True, kw_only=True)
class Status:
    """Where a training is: what the progress line says."""

    step: int = 0
    num_steps: int = 0
    losses: Mapping[str, float] = field(default_factory=dict)  # the latest of each, by type and name
    images_per_s: Mapping[str, float] = field(default_factory=dict)  # of the steps of each type
    remaining_s: float | None = None
    num_unsent: int = 0  # metrics that wait for MLflow, which does not answer

    def words(self) -> str:
        """Losses, images a second by type, and the time that is left."""
        if not self.losses:
            return "starting workers"
        losses = "  ".join(f"{name.removeprefix('loss/')} {value:.2f}" for name, value in sorted(self.losses.items()))
        rates = ", ".join(f"{name} {rate:.1f}" for name, rate in sorted(self.images_per_s.items()))
        left = "" if self.remaining_s is None else f"  left {timedelta(seconds=round(self.remaining_s))}"
        waiting = f"  MLflow does not answer: {self.num_unsent:,} metrics wait" if self.num_unsent else ""
        return f"{losses}  images/s {rates}{left}{waiting}"


@dataclass(frozen=True, kw_only=True)
class ProgressBoard:
    """The latest status of a training, as a value in the key-value store of the cluster's head.

    An actor would be a process more, and each one wakes a hundred times a second. A board that cannot be reached is no reason
    to stop a training.
    """

    run_id: str

    def update(self, status: Status) -> None:
        """Write the status; called by rank 0."""
        with suppress(Exception):
            internal_kv._internal_kv_put(self.run_id, json.dumps(asdict(status)), overwrite=True, namespace=_NAMESPACE)

    def read(self) -> Status | None:
        """The latest status, or None where the board cannot be reached."""
        with suppress(Exception):
            return Status(**json.loads(internal_kv._internal_kv_get(self.run_id, namespace=_NAMESPACE)))
        return None


class Progress:
    """Rank 0's writer of the board.

    The time that is left is worked out from the steps of each type that are left and what such steps take in this attempt, so
    that it is right after a resume, too, and when a type that takes long is still to come.
    """

    def __init__(self, *, board: ProgressBoard, types: Sequence[Supervision], done: int) -> None:
        self.board, self.types, self.done = board, types, done
        self.left = Counter(types)
        self.mean_s: dict[Supervision, float] = {}
        self.latest: dict[str, float] = {}
        self._updated_s = -math.inf

    def step(self, step: int, metrics: Mapping[str, float], *, num_unsent: int = 0) -> None:
        """Take the metrics of a finished step; update the board now and then, and after the last step."""
        kind = self.types[step - self.done - 1]
        self.left[kind] -= 1
        step_s = float(metrics["step_s"])
        self.mean_s[kind] = self.mean_s.get(kind, step_s) * (1 - _FORGETTING) + step_s * _FORGETTING
        self.latest |= metrics
        num_steps = self.done + len(self.types)
        # As often as it is looked at: each call costs several processes some time, which a busy machine takes from the training.
        if step < num_steps and time.monotonic() - self._updated_s < POLL_S:
            return
        self._updated_s = time.monotonic()
        start = "images_per_s/"
        losses = {name: float(value) for name, value in self.latest.items() if name.startswith("loss/")}
        rates = {name.removeprefix(start): float(rate) for name, rate in self.latest.items() if name.startswith(start)}
        remaining_s = self.remaining_s()
        status = Status(
            step=step,
            num_steps=num_steps,
            losses=losses,
            images_per_s=rates,
            remaining_s=remaining_s,
            num_unsent=num_unsent,
        )
        self.board.update(status)

    def remaining_s(self) -> float:
        """Seconds to the last step; a type that has not had its turn is taken to be as fast as the others."""
        typical = sum(self.mean_s.values()) / len(self.mean_s)
        return sum(count * self.mean_s.get(kind, typical) for kind, count in self.left.items())


@contextmanager
def progress_of(board: ProgressBoard, *, console: Console) -> Iterator[None]:
    """Draw the board's progress while the body runs: a bar on a terminal, a line now and then elsewhere."""
    done = threading.Event()
    thread = threading.Thread(target=_draw, args=(board, console, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=10 * POLL_S)


def _draw(board: ProgressBoard, console: Console, done: threading.Event) -> None:
    counts = (MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("[dim]{task.fields[words]}"))
    columns = (TextColumn("training"), BarColumn(bar_width=24), *counts)
    since_print, printed, status = 0.0, 0, Status()
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("training", total=None, words="starting workers")
        finished = False
        while not finished:
            finished = done.wait(POLL_S)
            status = board.read() or status
            bar.update(task, completed=status.step, total=status.num_steps or None, words=status.words())
            since_print += POLL_S
            if not console.is_terminal and status.step != printed and (finished or since_print >= PRINT_EVERY_S):
                line = f"step {status.step}/{status.num_steps}  {status.words()}"
                console.print(line, highlight=False, soft_wrap=True)
                since_print, printed = 0.0, status.step
