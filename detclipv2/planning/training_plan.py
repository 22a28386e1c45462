"""Training plan: what a training will take on given GPUs."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from detclipv2.config import ModelConfig, Supervision, TrainConfig
from detclipv2.planning.flops import ImageFlops, TextFlops, image_flops, text_flops
from detclipv2.planning.memory import HEADROOM, Memory, step_memory
from detclipv2.training.schedule import Schedule, global_batch_sizes


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU, by its vendor's data sheet."""

    name: str
    peak_tflops: float  # a second, dense matrix products in bf16, added up in fp32
    memory_gb: float
    bandwidth_gb_per_s: float  # of its memory
    has_bf16: bool = True

    @property
    def peak_flops_per_s(self) -> float:
        """Of dense matrix products in bf16."""
        return self.peak_tflops * 1e12

    @property
    def available_bytes(self) -> float:
        """What a plan may use of its memory."""
        return self.memory_gb * 1e9 * (1 - HEADROOM)


GPUS = {
    gpu.name: gpu
    for gpu in (
        # V100 SXM2 32 GB, the paper's; its figure is that of fp16, as it has no bf16.
        Gpu(name="v100", peak_tflops=125, memory_gb=32, bandwidth_gb_per_s=900, has_bf16=False),
        Gpu(name="a100-40", peak_tflops=312, memory_gb=40, bandwidth_gb_per_s=1555),
        Gpu(name="a100-80", peak_tflops=312, memory_gb=80, bandwidth_gb_per_s=2039),
        Gpu(name="h100", peak_tflops=989, memory_gb=80, bandwidth_gb_per_s=3350),
        Gpu(name="h200", peak_tflops=989, memory_gb=141, bandwidth_gb_per_s=4800),
        Gpu(name="l4", peak_tflops=121, memory_gb=24, bandwidth_gb_per_s=300),
        Gpu(name="rtx4090", peak_tflops=165, memory_gb=24, bandwidth_gb_per_s=1008),
        Gpu(name="b200", peak_tflops=2250, memory_gb=180, bandwidth_gb_per_s=8000),
    )
}


def gpu_of(device_name: str) -> Gpu | None:
    """The GPU of the table that a device calls itself, such as "NVIDIA A100-SXM4-80GB"; None where it is not there."""
    words = re.split(r"[^a-z0-9]+", device_name.lower().replace("rtx ", "rtx"))
    for gpu in GPUS.values():
        model, _, gigabytes = gpu.name.partition("-")
        if model in words and (not gigabytes or f"{gigabytes}gb" in words):
            return gpu
    return None


def gpu_named(name: str) -> Gpu:
    """A GPU of the table.

    Raises:
        ValueError: it is not there.
    """
    if name not in GPUS:
        raise ValueError(f"no GPU {name!r}: there are {', '.join(GPUS)}; add it to detclipv2/planning/training_plan.py")
    return GPUS[name]


@dataclass(frozen=True, kw_only=True)
class DataSize:
    """What of a dataset a plan depends on."""

    num_samples: int
    # Distinct texts that the concepts of boxed images are drawn from.
    num_concepts: int = 0
    # Noun phrases of an image-text pair; its caption comes on top where it counts as a concept.
    phrases_per_sample: float = 0.0


PHRASES_PER_PAIR = 5.0  # of a caption of the web, about
# Table 1 of arXiv:2304.04514: Objects365's subset, GoldG without COCO, CC3M and CC12M. Concepts: Objects365's categories; the
# paper's dictionary.
PAPER_DATA: dict[Supervision, DataSize] = {
    "detection": DataSize(num_samples=660_000, num_concepts=365),
    "grounding": DataSize(num_samples=770_000, num_concepts=14_000),
    "image_text": DataSize(num_samples=13_000_000, phrases_per_sample=PHRASES_PER_PAIR),
}


def distinct_texts(
    train: TrainConfig,
    supervision: Supervision,
    *,
    sizes: Mapping[Supervision, DataSize],
    world_size: int,
) -> int:
    """Distinct texts that a step of a type is expected to have over all processes.

    Concepts of a boxed image are taken to be drawn evenly from all there are, without repetition; texts of pairs, captions
    above all, are taken not to repeat.
    """
    size = sizes[supervision]
    settings = train.supervisions()[supervision]
    num_images = settings.samples_per_worker(world_size) * world_size
    if supervision == "image_text":
        return max(1, round(num_images * (size.phrases_per_sample + train.loss.caption_as_concept)))
    absent = max(0.0, 1 - max(1, settings.num_concepts) / max(1, size.num_concepts))  # from one image
    return max(1, round(size.num_concepts * (1 - absent**num_images)))


def encoded_texts(model: ModelConfig, supervision: Supervision, num_texts: int) -> int:
    """How many texts of a step the encoder has to read.

    A frozen one remembers: categories and concepts of the dictionary come again, captions do not.
    """
    return 0 if model.text_training == "frozen" and supervision != "image_text" else num_texts


def train_flops(
    model: ModelConfig, train: TrainConfig, *, sizes: Mapping[Supervision, DataSize], world_size: int
) -> dict[Supervision, float]:
    """Model FLOPs of one image of each supervision type: what images a second are multiplied with for MFU.

    Those of the texts are left out (``text_flops``): they belong to a step and not to an image. The losses grow with the texts
    of a step, which are estimated from the ``sizes`` of the datasets.
    """
    counted: dict[Supervision, float] = {}
    for name in train.supervisions():
        num_texts = distinct_texts(train, name, sizes=sizes, world_size=world_size)
        counted[name] = image_flops(model, train, name, num_texts=num_texts).model
    return counted


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Model FLOPs a second that one GPU, or one process on CPUs, was seen to do in steps of a type."""

    gpu: str  # a name of `GPUS`, or "cpu"
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
    num_steps: int
    steps_per_epoch: int  # of a pass over its dataset
    images: int  # of a step, over all processes
    images_per_process: int
    images_at_a_time: int  # of a process
    num_texts: int  # distinct ones of a step over all processes
    num_encoded: int  # of these, that the encoder has to read
    image: ImageFlops
    text: TextFlops
    num_processes: int
    memory: Memory
    speed: Speed | None  # None: nothing is known of this hardware

    @property
    def step_flops(self) -> float:
        """Model FLOPs of one process's part of a step: its images, and its share of the texts."""
        return self.images_per_process * self.image.model + self.num_encoded / self.num_processes * self.text.total

    @property
    def recomputed_flops(self) -> float:
        """What one process computes again in a step, besides."""
        texts = self.num_encoded / self.num_processes * self.text.recomputed
        return self.images_per_process * self.image.recomputed + texts

    @property
    def total_flops(self) -> float:
        """Model FLOPs of all steps over all processes."""
        return self.step_flops * self.num_processes * self.num_steps

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
    advice: Sequence[str]  # what would not run, and how to fix it

    @property
    def hours(self) -> tuple[float, float] | None:
        """Fastest and slowest expected hours of all steps; reading that is waited for, evaluation and restarts come on top."""
        times = [(kind.num_steps, kind.step_s) for kind in self.types]
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
    """Estimate a training.

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
    images = global_batch_sizes(train, world_size=num_processes)
    num_samples = {name: sizes[name].num_samples for name in images}
    steps = Counter(Schedule(config=train, num_samples=num_samples, world_size=num_processes).types)
    types, advice = [], list(_precision_advice(train, gpu))
    for name, settings in train.supervisions().items():
        num_texts = distinct_texts(train, name, sizes=sizes, world_size=num_processes)
        kind = TypePlan(
            supervision=name,
            num_steps=steps[name],
            steps_per_epoch=math.ceil(num_samples[name] / images[name]),
            images=images[name],
            images_per_process=settings.samples_per_worker(num_processes),
            images_at_a_time=settings.batch_size,
            num_texts=num_texts,
            num_encoded=encoded_texts(model, name, num_texts),
            image=image_flops(model, train, name, num_texts=num_texts, world_size=num_processes),
            text=text_flops(model),
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
        if gpu is not None and kind.memory.total > gpu.available_bytes:
            advice.append(_memory_advice(model, train, kind, gpu))
    return Plan(recipe=recipe, gpu=gpu, num_processes=num_processes, types=types, advice=advice)


def expected_speed(rates: Sequence[Rate], *, gpu: Gpu | None, recipe: str, supervision: Supervision) -> Speed | None:
    """What is known of how fast a type's steps run on a GPU.

    Best is the same recipe measured on the same GPU, then another recipe on it. Otherwise a rate on another GPU is carried over:
    at worst it grows with the bandwidth of the memory, at best with the peak of matrix products.
    """
    same_recipe_last = sorted(
        (rate for rate in rates if rate.supervision == supervision), key=lambda rate: rate.recipe == recipe
    )
    own = [rate for rate in same_recipe_last if rate.gpu == ("cpu" if gpu is None else gpu.name)]
    if own:
        return Speed(slow=own[-1].flops_per_s, fast=own[-1].flops_per_s, source=own[-1].source)
    others = [rate for rate in same_recipe_last if rate.gpu in GPUS]
    if gpu is None or not others:
        return None
    rate, measured = others[-1], GPUS[others[-1].gpu]
    ratios = gpu.bandwidth_gb_per_s / measured.bandwidth_gb_per_s, gpu.peak_tflops / measured.peak_tflops
    slow, fast = (rate.flops_per_s * ratio for ratio in sorted(ratios))
    return Speed(slow=slow, fast=fast, source=f"{rate.source}, of {rate.gpu}")


def _precision_advice(train: TrainConfig, gpu: Gpu | None) -> Sequence[str]:
    if gpu is None or gpu.has_bf16 or train.precision != "bf16":
        return ()
    return (
        f"{gpu.name} has no bf16, which train.precision asks for: train on another GPU, or in fp32 at half the speed",
    )


def _memory_advice(model: ModelConfig, train: TrainConfig, kind: TypePlan, gpu: Gpu) -> str:
    """What does not fit, and the changes that make it fit: fewer images at a time, or gradient checkpointing."""
    name, available = kind.supervision, gpu.available_bytes
    needed, left = f"{kind.memory.total / 1e9:.1f} GB", f"{available / 1e9:.1f} GB ({gpu.name} less {HEADROOM:.0%})"
    problem = f"{name}: {needed} do not fit into {left}"

    def total(changed: ModelConfig, batch_size: int) -> float:
        texts, processes = kind.num_texts, kind.num_processes
        return step_memory(changed, train, name, num_texts=texts, world_size=processes, batch_size=batch_size).total

    fixes = []
    for checkpointing in dict.fromkeys((model.gradient_checkpointing, True)):
        changed = replace(model, gradient_checkpointing=checkpointing)
        batch_size = kind.images_at_a_time
        while batch_size > 1 and total(changed, batch_size) > available:
            batch_size //= 2
        if total(changed, batch_size) > available:
            continue
        options = [] if checkpointing == model.gradient_checkpointing else ["--model.gradient-checkpointing"]
        if batch_size < kind.images_at_a_time:
            flag = f"--train.{name.replace('_', '-')}"
            options.append(f"{flag}.batch-size {batch_size}")
            if train.supervisions()[name].global_batch_size is None:
                options.append(f"{flag}.global-batch-size {kind.images}")
        fixes.append(f"{' '.join(options)} ({total(changed, batch_size) / 1e9:.1f} GB)")
    if not fixes:
        return f"{problem}, not even one image at a time: take more GPUs, smaller images or a smaller global batch"
    return f"{problem}: {' or '.join(fixes)}"
