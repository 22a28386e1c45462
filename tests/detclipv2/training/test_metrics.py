import time
from typing import Any

import pytest
import torch
from torch import nn

from detclipv2.config import Supervision
from detclipv2.training.loop import report
from detclipv2.training.metrics import DeviceTimer, Metrics, StepRecord, peak_memory_bytes
from detclipv2.training.optim import guarded_step

CPU = torch.device("cpu")


def _metrics(world_size: int = 1) -> Metrics:
    return Metrics(CPU, world_size=world_size, flops_per_image={}, peak_flops_per_s=None)


def _record(step: int, *, loss: float = 1.0, supervision: Supervision = "detection") -> StepRecord:
    timer = DeviceTimer(CPU)
    time.sleep(0.002)
    return StepRecord(
        step=step,
        supervision=supervision,
        keys=["a", "b", "c"],
        losses={"align": torch.tensor(loss)},
        norm=torch.tensor(2.0),
        is_finite=torch.tensor(loss).isfinite(),
        learning_rates={"backbone": 0.5, "head": 2.0},
        wait_s=0.001,
        timer=timer.stop(),
    )


class Listener:
    """Records the calls of the hooks, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.metrics: dict[int, Any] = {}

    def log(self, step: int, metrics: Any) -> None:
        self.calls.append(("log", step))
        self.metrics[step] = metrics

    def skipped(self, step: int, skipped: Any) -> None:
        self.calls.append(("skipped", step))

    def save(self, step: int, state: Any) -> None:
        raise AssertionError

    def wants_checkpoint(self, step: int) -> bool:
        raise AssertionError


def test_numbers_of_a_step() -> None:
    metrics = _metrics(world_size=4)
    metrics.add(_record(1))
    ((record, found),) = metrics.read()

    assert record.step == 1
    assert found["loss/detection/align"] == 1.0
    assert found["step_s"] >= 0.002
    assert found["images_per_s/detection"] == pytest.approx(4 * 3 / found["step_s"])
    assert found["data_wait_share"] == pytest.approx(0.001 / found["step_s"])
    assert (found["learning_rate"], found["learning_rate/backbone"], found["learning_rate/head"]) == (2.0, 0.5, 2.0)
    assert list(metrics.read()) == []


def test_steps_that_are_read_together_are_reported_in_their_order() -> None:
    metrics, listener = _metrics(), Listener()
    for step, loss in enumerate([1.0, torch.inf, 1.0, torch.nan, torch.inf, 1.0], start=1):
        metrics.add(_record(step, loss=loss))

    report(metrics, listener, max_skipped=3)

    calls = [("log", 1), ("skipped", 2), ("log", 2), ("log", 3), ("skipped", 4), ("log", 4), ("skipped", 5), ("log", 5)]
    assert listener.calls == [*calls, ("log", 6)]
    assert [listener.metrics[step]["skipped_steps"] for step in range(1, 7)] == [0, 1, 1, 2, 3, 3]


def test_too_many_in_a_row_over_two_readings() -> None:
    metrics, listener = _metrics(), Listener()
    metrics.add(_record(1, loss=torch.nan))
    report(metrics, listener, max_skipped=2)
    for step in (2, 3):
        metrics.add(_record(step, loss=torch.nan))

    with pytest.raises(
        FloatingPointError, match=r"step 2: losses \{'align': nan\}, gradient norm 2.0 on detection batch"
    ):
        report(metrics, listener, max_skipped=2)


def test_the_memory_of_a_process_never_falls() -> None:
    before = peak_memory_bytes(CPU)
    block = torch.ones(2**24)  # 64 MiB
    after = peak_memory_bytes(CPU)
    del block

    assert after >= before > 2**26
    assert peak_memory_bytes(CPU) >= after


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_step_on_cuda_is_timed_by_the_device_and_guarded_on_it() -> None:
    device = torch.device("cuda")
    layer = nn.Linear(4096, 4096, device=device)
    optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
    before = layer.weight.detach().clone()
    timer, started = DeviceTimer(device), time.perf_counter()
    x = torch.randn(4096, 4096, device=device)
    for _ in range(200):
        x = layer(x)
    x.sum().backward()
    launched = time.perf_counter() - started
    guarded_step(optimizer, torch.tensor(False, device=device))
    seconds = timer.stop().seconds()

    assert seconds > launched
    assert torch.equal(layer.weight, before)
    guarded_step(optimizer, torch.tensor(True, device=device))
    assert not torch.equal(layer.weight, before)
    assert peak_memory_bytes(device) > 4096 * 4096 * 4
