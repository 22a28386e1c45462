"""The driver's view of a training that runs elsewhere: an actor that the first rank tells its step."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

POLL_S = 1.0
PRINT_EVERY_S = 15.0  # where there is no terminal to redraw


class ProgressBoard:
    """The latest step and the latest value of every loss."""

    def __init__(self) -> None:
        self.step = 0
        self.losses: dict[str, float] = {}

    def update(self, step: int, losses: dict[str, float]) -> None:
        """Called by the first rank after every step."""
        self.step = step
        self.losses |= losses

    def read(self) -> tuple[int, dict[str, float]]:
        """The step and the losses."""
        return self.step, self.losses


def start_board() -> Any:
    """A new board, as the handle of an actor that takes no CPU from the workers."""
    return ray.remote(num_cpus=0)(ProgressBoard).remote()


def _words(losses: Mapping[str, float]) -> str:
    return "  ".join(f"{name.removeprefix('loss/')} {value:.2f}" for name, value in sorted(losses.items()))


@contextmanager
def progress_of(board: Any, *, num_steps: int, console: Console) -> Iterator[None]:
    """Draw the board's progress while the body runs: a bar on a terminal, a line now and then elsewhere."""
    done = threading.Event()
    thread = threading.Thread(target=_draw, args=(board, num_steps, console, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=10 * POLL_S)


def _draw(board: Any, num_steps: int, console: Console, done: threading.Event) -> None:
    columns = (
        TextColumn("training"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("[dim]{task.fields[losses]}"),
    )
    since_print, printed = 0.0, -1
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("training", total=num_steps, losses="starting workers")
        while True:
            finished = done.wait(POLL_S)
            try:
                step, losses = ray.get(board.read.remote(), timeout=5 * POLL_S)
            except ray.exceptions.RayError:
                return
            bar.update(task, completed=step, losses=_words(losses) or "starting workers")
            since_print += POLL_S
            if not console.is_terminal and step != printed and (finished or since_print >= PRINT_EVERY_S):
                console.print(f"step {step}/{num_steps}  {_words(losses)}", highlight=False)
                since_print, printed = 0.0, step
            if finished:
                return
