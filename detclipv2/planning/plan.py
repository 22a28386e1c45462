"""What a training will take on given GPUs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from detclipv2.config import ModelConfig, Supervision, TrainConfig
from detclipv2.planning.flops import ImageFlops, image_flops
from detclipv2.planning.gpus import GPUS, Gpu
from detclipv2.planning.memory import HEADROOM, Memory, step_memory
from detclipv2.planning.steps import Steps, count_steps
from detclipv2.planning.texts import DataSize, TextCost, distinct_texts, encoded_texts, text_cost


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Model FLOPs a second that one GPU, or one process on CPUs, was seen to do in steps of a type."""

    gpu: str  # a name of `planning.gpus.GPUS`, or "cpu"
    recipe: str
    supervision: Supervision
    flops_per_s: float
    source: str  # where the figure is from


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Expected model FLOPs a second of one process: a range whose ends are equal where it was measured."""

    slow: float
    fast: float
    source: str


@dataclass(frozen=True, kw_only=True)
class TypePlan:
    """All that concerns the steps of one supervision type."""

    supervision: Supervision
    steps: Steps
    images_at_a_time: int  # of a process
    images_per_process: int
    num_texts: int  # distinct ones of a step over all processes
    num_encoded: int  # of these, that the encoder has to read
    image: ImageFlops
    text: TextCost
    num_processes: int
    memory: Memory
    speed: Speed | None  # None: nothing is known of this hardware

    @property
    def step_flops(self) -> float:
        """Model FLOPs of one process's part of a step: its images, and its share of the texts."""
        return self.images_per_process * self.image.model + self.num_encoded / self.num_processes * self.text.model

    @property
    def recomputed_flops(self) -> float:
        """What one process computes again in a step, besides."""
        texts = self.num_encoded / self.num_processes * self.text.recomputed
        return self.images_per_process * self.image.recomputed + texts

    @property
    def total_flops(self) -> float:
        """Model FLOPs of all steps over all processes."""
        return self.step_flops * self.num_processes * self.steps.total

    @property
    def step_s(self) -> tuple[float, float] | None:
        """Fastest and slowest expected seconds of a step."""
        return None if self.speed is None else (self.step_flops / self.speed.fast, self.step_flops / self.speed.slow)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A training on given hardware."""

    recipe: str
    gpu: Gpu | None  # None: CPUs
    num_processes: int
    types: Sequence[TypePlan]
    advice: Sequence[str]  # what would not run, and how to mend it

    @property
    def hours(self) -> tuple[float, float] | None:
        """Fastest and slowest expected hours of all steps; reading that is waited for, evaluation and restarts come on top."""
        times = [(kind.steps.total, kind.step_s) for kind in self.types]
        known = [(count, step_s) for count, step_s in times if step_s is not None]
        if len(known) < len(times):
            return None
        fast, slow = (sum(count * step_s[end] for count, step_s in known) / 3600 for end in (0, 1))
        return fast, slow

    @property
    def total_flops(self) -> float:
        """Model FLOPs of the whole training."""
        return sum(kind.total_flops for kind in self.types)


def make_plan(
    model: ModelConfig,
    train: TrainConfig,
    *,
    recipe: str,
    sizes: Mapping[Supervision, DataSize],
    gpu: Gpu | None,
    num_processes: int,
    rates: Sequence[Rate],
) -> Plan:
    """Reckon a training.

    Args:
        model: the network.
        train: the training; types without data are left out of it.
        recipe: its name, by which measured rates are found.
        sizes: of the datasets.
        gpu: that each process has; None for CPUs.
        num_processes: that train together.
        rates: what was measured.

    Raises:
        ValueError: no type has data, or the configuration names weights that are not there.
    """
    steps = count_steps(train, sizes, world_size=num_processes)
    types, advice = [], list(_precision_advice(train, gpu))
    for name, settings in train.supervisions().items():
        num_texts = distinct_texts(train, name, sizes=sizes, world_size=num_processes)
        kind = TypePlan(
            supervision=name,
            steps=steps[name],
            images_at_a_time=settings.batch_size,
            images_per_process=settings.samples_per_worker(num_processes),
            num_texts=num_texts,
            num_encoded=encoded_texts(model, name, num_texts),
            image=image_flops(model, train, name, num_texts=num_texts, world_size=num_processes),
            text=text_cost(model, precision=train.precision),
            num_processes=num_processes,
            memory=step_memory(
                model,
                train,
                name,
                num_texts=num_texts,
                world_size=num_processes,
                device="cpu" if gpu is None else "cuda",
            ),
            speed=expected_speed(rates, gpu=gpu, recipe=recipe, supervision=name),
        )
        types.append(kind)
        if gpu is not None and not fits(kind.memory, gpu):
            advice.append(_memory_advice(model, train, kind, gpu))
    return Plan(recipe=recipe, gpu=gpu, num_processes=num_processes, types=types, advice=advice)


def expected_speed(rates: Sequence[Rate], *, gpu: Gpu | None, recipe: str, supervision: Supervision) -> Speed | None:
    """What is known of how fast a type's steps run on a GPU.

    Best is the same recipe measured on the same GPU, then another recipe on it. Otherwise a rate on another GPU is carried over:
    at worst it grows with the bandwidth of the memory, at best with the peak of matrix products.
    """
    of_type = [rate for rate in rates if rate.supervision == supervision]
    own = [rate for rate in of_type if rate.gpu == ("cpu" if gpu is None else gpu.name)]
    found = next((rate for rate in reversed(own) if rate.recipe == recipe), None) or next(reversed(own), None)
    if found is not None:
        return Speed(slow=found.flops_per_s, fast=found.flops_per_s, source=found.source)
    others = [rate for rate in of_type if rate.gpu in GPUS]
    if gpu is None or not others:
        return None
    same_recipe = [rate for rate in others if rate.recipe == recipe]
    rate = (same_recipe or others)[-1]
    measured = GPUS[rate.gpu]
    factors = sorted(
        (
            gpu.bandwidth_bytes_per_s / measured.bandwidth_bytes_per_s,
            gpu.peak_flops_per_s / measured.peak_flops_per_s,
        )
    )
    slow, fast = (rate.flops_per_s * factor for factor in factors)
    return Speed(slow=slow, fast=fast, source=f"{rate.source}, of {rate.gpu}")


def fits(memory: Memory, gpu: Gpu) -> bool:
    """Whether a step fits with room to spare."""
    return memory.total <= gpu.memory_bytes * (1 - HEADROOM)


def _precision_advice(train: TrainConfig, gpu: Gpu | None) -> Sequence[str]:
    if gpu is None or gpu.has_bf16 or train.precision != "bf16":
        return ()
    return (
        f"{gpu.name} has no bf16, which train.precision asks for: train on another GPU, or in fp32 at half the speed",
    )


def _memory_advice(model: ModelConfig, train: TrainConfig, kind: TypePlan, gpu: Gpu) -> str:
    """What does not fit, and the changes that make it fit: fewer images at a time, or gradient checkpointing."""
    name, room = kind.supervision, gpu.memory_bytes * (1 - HEADROOM)
    problem = (
        f"{name}: {kind.memory.total / 1e9:.1f} GB do not fit into {room / 1e9:.1f} GB ({gpu.name} less {HEADROOM:.0%})"
    )

    def total(changed: ModelConfig, batch_size: int) -> float:
        return step_memory(
            changed,
            train,
            name,
            num_texts=kind.num_texts,
            world_size=kind.num_processes,
            batch_size=batch_size,
        ).total

    mended = []
    for switch in dict.fromkeys((model.gradient_checkpointing, True)):
        changed = replace(model, gradient_checkpointing=switch)
        batch_size = kind.images_at_a_time
        while batch_size > 1 and total(changed, batch_size) > room:
            batch_size //= 2
        if total(changed, batch_size) <= room:
            options = "" if switch == model.gradient_checkpointing else "--model.gradient-checkpointing "
            if batch_size < kind.images_at_a_time:
                options += f"--train.{name.replace('_', '-')}.batch-size {batch_size} "
            whole = kind.images_per_process * kind.num_processes
            if batch_size < kind.images_at_a_time and train.supervisions()[name].global_batch_size is None:
                options += f"--train.{name.replace('_', '-')}.global-batch-size {whole} "
            mended.append(f"{options.strip()} ({total(changed, batch_size) / 1e9:.1f} GB)")
    if not mended:
        return f"{problem}, not even one image at a time: take more GPUs, smaller images or a smaller global batch"
    return f"{problem}: {' or '.join(mended)}"
