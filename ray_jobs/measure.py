"""Throughput of training steps: rates measured on this machine with random images, their table, and what the paper implies."""

import random
import statistics
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError

from detclipv2.build import build_detector
from detclipv2.config import Supervision
from detclipv2.losses.hybrid import HybridObjective
from detclipv2.planning.flops import image_flops, text_flops
from detclipv2.planning.training_plan import PAPER_DATA, DataSize, Gpu, Rate, distinct_texts, encoded_texts
from detclipv2.structures import Batch
from detclipv2.training.learner import Learner
from detclipv2.training.metrics import DeviceTimer
from pipelines.storage import write_text_atomically
from ray_jobs.job_config import JobConfig, load_recipe
from schemas.manifest import canonical_json

RATES_PATH = Path("outputs/measured_rates.json")
NUM_WARMUP_STEPS, NUM_TIMED_STEPS = 2, 5
BOXES_PER_IMAGE = 8
POSITIVE_CONCEPTS = 5

PAPER_RECIPE, PAPER_GPU, PAPER_NUM_GPUS = "detclipv2_t:pretrain", "v100", 32
# Seconds of a step on 32 V100. Detection: Table 3's Objects365 row. The others are what makes its row of three datasets, and
# Table 12's GPU-hours, come out.
PAPER_STEP_S: Mapping[Supervision, float] = {"detection": 1.075, "grounding": 0.88, "image_text": 3.9}


def measured_rates(job: JobConfig, *, gpu: Gpu | None, sizes: Mapping[Supervision, DataSize]) -> list[Rate]:
    """Time steps of each type on one process, as the loop takes them; reading images is left out.

    A step takes as many images as go through the network at a time. Texts are new in every step, as captions are. The median
    of the timed steps counts. Weights are random, as they do not change the time.

    Raises:
        ValueError: a GPU is asked for, and there is none.
    """
    if gpu is not None and not torch.cuda.is_available():
        raise ValueError(f"--measure: this machine has no {gpu.name}; measure on one, or with --gpu cpu")
    device = torch.device("cpu" if gpu is None else "cuda")
    torch.manual_seed(job.train.seed)
    weights = "random" if job.model.text_encoder == "clip" else job.model.text_weights
    model = replace(job.model, backbone_weights="random", text_weights=weights)
    objective = HybridObjective(build_detector(model), job.train.loss).to(device)
    learner = Learner(objective, objective, config=job.train, device=device, resume=None)
    rates = []
    for name, settings in job.train.supervisions().items():
        seconds, num_texts = [], 0
        for step in range(NUM_WARMUP_STEPS + NUM_TIMED_STEPS):
            # Concepts of boxed images come again, and a frozen encoder remembers them; captions are new in every step.
            rng = random.Random(f"measure-{job.train.seed}-{name}-{step if name == 'image_text' else 0}")
            batch = _batch(job, name, sizes[name], rng=rng)
            num_texts = len({text for concepts in batch.concepts for text in concepts})
            taken = learner.step(
                step + 1, batch, rate=job.train.optim.learning_rate, timer=DeviceTimer(device), wait_s=0.0
            )
            seconds.append(taken.timer.seconds())
        image = image_flops(job.model, job.train, name, num_texts=num_texts)
        text = text_flops(job.model)
        flops = settings.batch_size * image.model + encoded_texts(job.model, name, num_texts) * text.total
        rates.append(
            Rate(
                gpu="cpu" if gpu is None else gpu.name,
                recipe=job.recipe,
                supervision=name,
                flops_per_s=flops / statistics.median(seconds[NUM_WARMUP_STEPS:]),
                source=f"measured: {NUM_TIMED_STEPS} steps of {settings.batch_size} images on one process",
            )
        )
    return rates


def _batch(job: JobConfig, supervision: Supervision, size: DataSize, *, rng: random.Random) -> Batch:
    """Noise, with as many boxes and concepts as real images have, about."""
    settings = job.train.supervisions()[supervision]
    height, width = settings.canvas_hw
    boxes, labels, concepts = [], [], []
    for _ in range(settings.batch_size):
        if supervision == "image_text":
            count = size.phrases_per_sample + job.train.loss.caption_as_concept
            concepts.append([f"thing {rng.random()}" for _ in range(max(1, round(count)))])
            boxes.append(torch.zeros(0, 4))
            labels.append(torch.zeros(0, dtype=torch.long))
            continue
        count = max(1, min(settings.num_concepts or POSITIVE_CONCEPTS, size.num_concepts))
        concepts.append([f"thing {number}" for number in rng.sample(range(max(count, size.num_concepts)), count)])
        corners = torch.tensor(
            [[rng.random() * 0.6 * width, rng.random() * 0.6 * height] for _ in range(BOXES_PER_IMAGE)]
        )
        boxes.append(torch.cat([corners, corners + torch.tensor([0.3 * width, 0.3 * height])], dim=1))
        labels.append(torch.arange(BOXES_PER_IMAGE) % min(POSITIVE_CONCEPTS, count))
    return Batch(
        supervision=supervision,
        keys=[f"noise-{number}" for number in range(settings.batch_size)],
        pixels=torch.rand(settings.batch_size, 3, height, width),
        image_sizes_hw=[(height, width)] * settings.batch_size,
        boxes_xyxy=boxes,
        labels=labels,
        concepts=concepts,
    )


def read_rates(path: Path = RATES_PATH) -> list[Rate]:
    """The table of measured rates, the newest last; none where there is no file.

    Raises:
        ValueError: the file is no such table.
    """
    try:
        return TypeAdapter(list[Rate]).validate_json(path.read_bytes()) if path.is_file() else []
    except ValidationError as error:
        raise ValueError(f"{path} is no table of measured rates: {error}; fix or remove it") from error


def add_rates(rates: list[Rate], *, path: Path = RATES_PATH) -> None:
    """Put rates into the table, in place of those of the same GPU, recipe and type.

    Raises:
        ValueError: the file is no such table.
    """
    new = {(rate.gpu, rate.recipe, rate.supervision) for rate in rates}
    kept = [rate for rate in read_rates(path) if (rate.gpu, rate.recipe, rate.supervision) not in new]
    lines = ",\n".join(f"  {canonical_json(asdict(rate))}" for rate in [*kept, *rates])
    write_text_atomically(path, f"[\n{lines}\n]\n")


def paper_rates() -> list[Rate]:
    """What the paper's times of steps imply, with the operations of this implementation.

    Its images with boxes are smaller on average than the canvas that is counted here, so that these are upper bounds: with
    shorter sides drawn evenly from 480 to 800 px, 0.65 times as much.
    """
    job = load_recipe(PAPER_RECIPE)
    text = text_flops(job.model)
    rates = []
    for name, settings in job.train.supervisions().items():
        num_texts = distinct_texts(job.train, name, sizes=PAPER_DATA, world_size=PAPER_NUM_GPUS)
        image = image_flops(job.model, job.train, name, num_texts=num_texts, world_size=PAPER_NUM_GPUS)
        images = settings.samples_per_worker(PAPER_NUM_GPUS) * image.model
        flops = images + encoded_texts(job.model, name, num_texts) / PAPER_NUM_GPUS * text.total
        rates.append(
            Rate(
                gpu=PAPER_GPU,
                recipe=PAPER_RECIPE,
                supervision=name,
                flops_per_s=flops / PAPER_STEP_S[name],
                source="paper, Tables 3, 12",
            )
        )
    return rates
