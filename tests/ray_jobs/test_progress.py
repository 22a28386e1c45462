from typing import Any, cast

import pytest

from detclipv2.config import Supervision
from ray_jobs.progress import Progress, ProgressBoard, Status


class Board:
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.sent: list[Status] = []

    def update(self, status: Status) -> None:
        self.sent.append(status)


def metrics(kind: str, step_s: float, **more: float) -> dict[str, Any]:
    return {f"loss/{kind}/align": 1.5, "step_s": step_s, f"images_per_s/{kind}": 8 / step_s, **more}


def test_the_time_left_counts_each_type_with_its_own_time() -> None:
    board = Board()
    types: list[Supervision] = ["detection", "image_text", "detection", "image_text", "image_text"]
    progress = Progress(board=cast(ProgressBoard, board), types=types, done=10)

    progress.step(11, metrics("detection", 1.0))
    assert board.sent[-1].remaining_s == pytest.approx(4 * 1.0), "of a type that had no turn nothing is known yet"
    progress.step(12, metrics("image_text", 4.0))
    assert progress.remaining_s() == pytest.approx(1 * 1.0 + 2 * 4.0)
    assert len(board.sent) == 1, "the board is not told more often than it is looked at"
    for step, kind, step_s in ((13, "detection", 1.0), (14, "image_text", 4.0), (15, "image_text", 4.0)):
        progress.step(step, metrics(kind, step_s))

    status = board.sent[-1]
    assert len(board.sent) == 2, "the last step is told at once"
    assert (status.step, status.num_steps, status.remaining_s) == (15, 15, 0)
    assert status.images_per_s == {"detection": 8.0, "image_text": 2.0}
    assert set(status.losses) == {"loss/detection/align", "loss/image_text/align"}


def test_nothing_is_left_after_the_last_step() -> None:
    board = Board()
    progress = Progress(board=cast(ProgressBoard, board), types=["detection", "detection"], done=0)

    for step in (1, 2):
        progress.step(step, metrics("detection", 0.5))

    assert board.sent[-1].remaining_s == 0


def test_words() -> None:
    assert Status().words() == "starting workers"
    status = Status(
        step=3,
        num_steps=9,
        losses={"loss/detection/align": 0.5, "loss/detection/box": 1.25},
        images_per_s={"detection": 12.34},
        remaining_s=3725.4,
    )
    assert status.words() == "detection/align 0.50  detection/box 1.25  images/s detection 12.3  left 1:02:05"
