"""Metrics of training steps, read from the device without making it wait."""

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from detclipv2.config import Supervision


@dataclass(frozen=True, kw_only=True)
class SkippedStep:
    """A step that changed nothing, because a loss or the gradient of some rank was not finite."""

    supervision: Supervision
    keys: list[str]  # of this rank's batch
    losses: Mapping[str, float]  # of this rank, by name
    norm: float  # of the gradient of all ranks


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """A step whose results may still be under way; its numbers are tensors on the device."""

    step: int
    supervision: Supervision
    keys: list[str]
    losses: Mapping[str, Tensor]  # each []
    norm: Tensor  # [], before clipping
    is_finite: Tensor  # bool [], the same on all ranks
    learning_rates: Mapping[str, float]
    wait_s: float  # for the batch
    timer: "DeviceTimer"

    def skipped(self) -> SkippedStep | None:
        """The record of the step if it changed nothing."""
        if self.is_finite:
            return None
        losses = {name: float(loss) for name, loss in self.losses.items()}
        return SkippedStep(supervision=self.supervision, keys=self.keys, losses=losses, norm=float(self.norm))


class DeviceTimer:
    """Time between its making and ``stop``: on CUDA as events of the current stream, else of this process's clock."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks = [self._mark()]

    def _mark(self) -> tuple[float, torch.cuda.Event | None]:
        event = None
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
        return time.perf_counter(), event

    def stop(self) -> "DeviceTimer":
        """Mark the end of the work that was launched so far."""
        self._marks.append(self._mark())
        return self

    def seconds(self) -> float:
        """Time from the start to the last ``stop``; waits until the device has come there."""
        (started, first), (stopped, last) = self._marks[0], self._marks[-1]
        if first is None or last is None:
            return stopped - started
        last.synchronize()
        return first.elapsed_time(last) / 1000


class Metrics:
    """Numbers of finished steps.

    Args:
        device: that trains.
        world_size: ranks that train together.
        flops_per_image: floating-point operations of a training step for an image, by type; none where it is not known.
        peak_flops_per_s: what the device can do; None where it is not known.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        world_size: int,
        flops_per_image: Mapping[Supervision, float],
        peak_flops_per_s: float | None,
    ) -> None:
        self.device = device
        self.world_size = world_size
        self.flops_per_image = flops_per_image
        self.peak_flops_per_s = peak_flops_per_s
        self.num_skipped = 0
        self.num_skipped_in_a_row = 0
        self._records: list[StepRecord] = []

    def add(self, record: StepRecord) -> None:
        """Take a step whose work has been launched."""
        self._records.append(record)

    def read(self) -> Iterator[tuple[StepRecord, dict[str, float]]]:
        """The steps that were added since the last reading, with their metrics; waits for the device."""
        records, self._records = self._records, []
        for record in records:
            is_finite = bool(record.is_finite)
            self.num_skipped += not is_finite
            self.num_skipped_in_a_row = 0 if is_finite else self.num_skipped_in_a_row + 1
            yield record, self._metrics(record)

    def _metrics(self, record: StepRecord) -> dict[str, float]:
        name, num_images = record.supervision, len(record.keys)
        step_s = record.timer.seconds()
        metrics = {f"loss/{name}/{part}": float(value) for part, value in record.losses.items()}
        metrics |= {f"learning_rate/{part}": rate for part, rate in record.learning_rates.items()}
        metrics |= {
            "grad_norm": float(record.norm),
            "learning_rate": max(record.learning_rates.values()),
            "step_s": step_s,
            "data_wait_share": min(1.0, record.wait_s / step_s),
            f"images_per_s/{name}": num_images * self.world_size / step_s,
            "memory_bytes": peak_memory_bytes(self.device),
            "skipped_steps": self.num_skipped,
        }
        if name in self.flops_per_image:
            flops_per_s = self.flops_per_image[name] * num_images / step_s  # of this rank
            metrics["tflops_per_s"] = flops_per_s / 1e12
            if self.peak_flops_per_s is not None:
                metrics["mfu"] = flops_per_s / self.peak_flops_per_s
        return metrics


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that tensors took on a CUDA device, otherwise the most that the process held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
