"""Training schedule: number of steps, supervision type and learning rate of each, as pure functions of the step.

A training whose number of ranks changed is a list of segments (``data/order.py``). With other ranks a step has another
global batch, and an epoch another number of steps; what is kept across the change is the progress, as a share of the whole.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from detclipv2.config import Supervision, TrainConfig
from detclipv2.data.alternation import alternation
from detclipv2.data.order import Segment


def global_batch_sizes(config: TrainConfig, *, world_size: int) -> dict[Supervision, int]:
    """Samples of a step over all workers, by type."""
    return {
        name: settings.samples_per_worker(world_size) * world_size for name, settings in config.supervisions().items()
    }


def whole_steps(config: TrainConfig, num_samples: Mapping[Supervision, int], *, world_size: int) -> int:
    """Steps of the whole training if it had this many workers from beginning to end."""
    if config.num_steps is not None:
        return config.num_steps
    assert config.epochs is not None
    sizes = global_batch_sizes(config, world_size=world_size)
    an_epoch = sum(math.ceil(count / sizes[name]) for name, count in num_samples.items())
    return max(1, round(config.epochs * an_epoch))


def pairs_left_out(config: TrainConfig, num_samples: Mapping[Supervision, int], *, world_size: int) -> str | None:
    """A warning where the training ends before image-text pairs begin; None where they take part or there are none."""
    num_steps = whole_steps(config, num_samples, world_size=world_size)
    if not num_samples.get("image_text") or config.image_text_after < num_steps:
        return None
    return (
        f"image-text pairs never take part: train.image_text_after is {config.image_text_after}, and the training has"
        f" {num_steps} steps; lower it, or train longer"
    )


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The steps of a training, counted from 1, of which those of the present segment are still open to be taken.

    Raises:
        ValueError: no type has samples, or the segments are not those of this configuration and data.
    """

    config: TrainConfig
    num_samples: Mapping[Supervision, int]
    world_size: int
    segments: Sequence[Segment] = ()  # of the training so far

    def __post_init__(self) -> None:
        """Raise ValueError where the last segment cannot have been the beginning of the present one."""
        for number, segment in enumerate(self.segments):
            taken = sum(segment.num_batches.values())
            if min(segment.num_batches.values(), default=0) < 0 or segment.world_size < 1:
                raise ValueError(f"segment {number} of the checkpoint is {segment}: nothing that a training leaves")
            if number == len(self.history) and Counter(self.types[:taken]) != Counter(dict(segment.num_batches)):
                raise ValueError(
                    f"the checkpoint is of another training: in {taken} steps it took {dict(segment.num_batches)} batches,"
                    f" this one takes {dict(Counter(self.types[:taken]))}; use another name, or the data and settings it had"
                )

    @property
    def _goes_on(self) -> bool:
        """Whether the last segment is the present one."""
        last = self.segments[-1] if self.segments else None
        return last is not None and (last.world_size, last.loader_workers) == (
            self.world_size,
            self.config.loader_workers,
        )

    @property
    def history(self) -> Sequence[Segment]:
        """The segments before the present one."""
        return tuple(self.segments[:-1] if self._goes_on else self.segments)

    @cached_property
    def first_step(self) -> int:
        """Steps before the present segment."""
        return sum(sum(segment.num_batches.values()) for segment in self.history)

    @property
    def done(self) -> int:
        """Steps that were taken already."""
        return sum(sum(segment.num_batches.values()) for segment in self.segments)

    def _steps(self, world_size: int) -> int:
        return whole_steps(self.config, self.num_samples, world_size=world_size)

    @cached_property
    def _progress_before(self) -> Fraction:
        """Share of the whole training before the present segment."""
        return sum(
            (Fraction(sum(s.num_batches.values()), self._steps(s.world_size)) for s in self.history), Fraction(0)
        )

    @cached_property
    def types(self) -> list[Supervision]:
        """The supervision type of each step of the present segment."""
        remaining = max(Fraction(0), 1 - self._progress_before)
        return alternation(
            self.num_samples,
            global_batch_sizes(self.config, world_size=self.world_size),
            num_steps=math.ceil(remaining * self._steps(self.world_size)),
            seed=self.config.seed,
            image_text_after=max(0, self.config.image_text_after - self.first_step),
            segment=len(self.history),
        )

    @property
    def num_steps(self) -> int:
        """Number of the last step."""
        return self.first_step + len(self.types)

    @property
    def types_left(self) -> list[Supervision]:
        """The supervision type of each step that is still to be taken."""
        return self.types[self.done - self.first_step :]

    def supervision(self, step: int) -> Supervision:
        """What a step of the present segment trains."""
        return self.types[step - 1 - self.first_step]

    def segments_after(self, step: int) -> list[Segment]:
        """The segments of the training after a step of the present one."""
        present = Segment(
            world_size=self.world_size,
            loader_workers=self.config.loader_workers,
            num_batches=dict(sorted(Counter(self.types[: step - self.first_step]).items())),
        )
        return [*self.history, present]

    def progress(self, step: int) -> Fraction:
        """Share of the training that is done after a step, in 0..1."""
        here = Fraction(step - self.first_step, self._steps(self.world_size))
        return min(Fraction(1), self._progress_before + here)

    def rate_factor(self, step: int) -> float:
        """Factor of the learning rates in a step: linear warm-up in steps, then cosine of the progress, to zero at the end.

        The warm-up takes ``warmup_steps``, a tenth of the training at most, both by the first segment's number of workers.
        """
        first = self._steps(self.segments[0].world_size if self.segments else self.world_size)
        warmup = max(1, min(self.config.optim.warmup_steps, first // 10))
        if step <= warmup:
            return step / warmup
        begun = Fraction(warmup, first)
        share = (self.progress(step - 1) - begun) / (1 - begun) if begun < 1 else Fraction(1)
        return 0.5 * (1 + math.cos(math.pi * float(max(Fraction(0), share))))

    @property
    def learning_rate(self) -> float:
        """The base rate: that of ``optim``, times the square root of the boxed types' global batch by the reference's.

        Where the boxed types have several batch sizes the largest counts; without any the rate stays as it is.
        """
        optim = self.config.optim
        sizes = global_batch_sizes(self.config, world_size=self.world_size)
        boxed = [size for name, size in sizes.items() if name != "image_text"]
        if optim.reference_batch_size is None or not boxed:
            return optim.learning_rate
        return optim.learning_rate * math.sqrt(max(boxed) / optim.reference_batch_size)
