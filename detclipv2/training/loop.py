"""The training loop: one supervision type a step, the same on every rank."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from detclipv2.config import Supervision, TrainConfig
from detclipv2.data.loader import Stream
from detclipv2.data.order import Segment
from detclipv2.distributed import rank, world_size
from detclipv2.losses.hybrid import HybridObjective
from detclipv2.structures import Batch
from detclipv2.training.checkpoint import TrainState
from detclipv2.training.learner import Learner
from detclipv2.training.metrics import DeviceTimer, Metrics, SkippedStep
from detclipv2.training.schedule import Schedule, pairs_left_out

_logger = logging.getLogger(__name__)


class TrainHooks(Protocol):
    """Training hooks: logging, checkpoints, preemption, progress. Every rank calls each at the same steps, counted from 1."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of a finished step.

        On an accelerator the steps since the last one that was logged come together: every ``log_every`` steps, and before
        a checkpoint.
        """
        ...

    def skipped(self, step: int, skipped: SkippedStep) -> None:
        """Take note of a step that changed nothing, before its metrics come."""
        ...

    def save(self, step: int, state: Callable[[], TrainState]) -> None:
        """Keep the state after a finished step, which ``state`` makes.

        Its tensors are those that the next step changes: they are to be written or copied before this returns.
        """
        ...

    def wants_checkpoint(self, step: int) -> bool:
        """Whether to keep the state after this step besides the usual ones: when the machine is about to be taken away.

        It is asked after every step, and must give all ranks the same answer.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Training:
    """A model in training: the objective, what wraps it for several ranks, and the streams that feed it."""

    objective: HybridObjective
    wrapped: nn.Module  # the objective itself, or DistributedDataParallel around it
    streams: Mapping[Supervision, Stream]
    config: TrainConfig
    device: torch.device
    # Floating-point operations of a training step for an image, and what the device can do in a second: for the metrics.
    flops_per_image: Mapping[Supervision, float] = field(default_factory=dict)
    peak_flops_per_s: float | None = None

    def schedule(self, segments: Sequence[Segment] = ()) -> Schedule:
        """The steps of the training on as many ranks as there are now, after what was done already."""
        return Schedule(config=self.config, num_samples=self.num_samples, world_size=world_size(), segments=segments)

    @property
    def num_samples(self) -> dict[Supervision, int]:
        """Samples of an epoch, by type."""
        return {name: sum(shard.num_samples for shard in s.shards) for name, s in self.streams.items()}


def train(training: Training, hooks: TrainHooks, *, resume: TrainState | None = None) -> None:
    """Train to the last step, from the beginning or from a saved state, on whatever number of ranks that was saved.

    Raises:
        ValueError: the state is not of this training.
        FloatingPointError: ``max_skipped_steps`` steps in a row had a loss or a gradient that is not finite.
    """
    config = training.config
    schedule = training.schedule(() if resume is None else resume.segments)
    warning = pairs_left_out(config, training.num_samples, world_size=world_size())
    if warning and rank() == 0:
        _logger.warning(warning)
    learner = Learner(training.objective, training.wrapped, config=config, device=training.device, resume=resume)
    metrics = Metrics(
        training.device,
        world_size=world_size(),
        flops_per_image=training.flops_per_image,
        peak_flops_per_s=training.peak_flops_per_s,
    )
    with _open_batches(training, schedule) as batches:
        for step in range(schedule.done + 1, schedule.num_steps + 1):
            timer, asked = DeviceTimer(training.device), time.perf_counter()
            batch = next(batches[schedule.supervision(step)])
            wait_s = time.perf_counter() - asked
            rate = schedule.learning_rate * schedule.rate_factor(step)
            metrics.add(learner.step(step, batch, rate=rate, timer=timer, wait_s=wait_s))
            is_last = step == schedule.num_steps
            saves = hooks.wants_checkpoint(step) or is_last or step % config.checkpoint_every == 0
            if saves or step % config.log_every == 0 or training.device.type == "cpu":
                report(metrics, hooks, max_skipped=config.max_skipped_steps)
            if saves:
                hooks.save(step, partial(learner.state, step, schedule.segments_after(step)))


def report(metrics: Metrics, hooks: TrainHooks, *, max_skipped: int) -> None:
    """Hand the finished steps to the hooks; raise FloatingPointError where too many in a row were skipped."""
    for record, numbers in metrics.read():
        skipped = record.skipped()
        if skipped is not None:
            hooks.skipped(record.step, skipped)
        hooks.log(record.step, numbers)
        if skipped is not None and metrics.num_skipped_in_a_row >= max_skipped:
            raise FloatingPointError(
                f"step {record.step}: losses {dict(skipped.losses)}, gradient norm {skipped.norm} on {record.supervision}"
                f" batch {record.keys}; {metrics.num_skipped_in_a_row} step(s) in a row were not finite (max_skipped_steps)"
            )


@contextmanager
def _open_batches(training: Training, schedule: Schedule) -> Iterator[Mapping[Supervision, Iterator[Batch]]]:
    """Batches of each type from the first step that is still to be taken; prefetching is ended at the end."""
    taken = schedule.segments_after(schedule.done)[-1].num_batches
    batches = {name: stream.batches(schedule.history, taken.get(name, 0)) for name, stream in training.streams.items()}
    try:
        yield batches
    finally:
        for iterator in batches.values():
            close: Any = getattr(iterator, "close", None)
            if close is not None:
                close()
