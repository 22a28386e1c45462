"""Throughput table of training steps: the rates that `detclip plan --measure` adds, and those that the paper implies."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from detclipv2.config import Supervision
from detclipv2.planning.flops import image_flops, text_flops
from detclipv2.planning.training_plan import PAPER_DATA, Rate, distinct_texts, encoded_texts
from pipelines.storage import write_text_atomically
from ray_jobs.job_config import load_recipe
from schemas.manifest import canonical_json

RATES_PATH = Path("outputs/measured_rates.json")

PAPER_RECIPE, PAPER_GPU, PAPER_NUM_GPUS = "detclipv2_t:pretrain", "v100", 32
PAPER_GPU_HOURS = 2100.0  # Table 5, DetCLIPv2-T
# Seconds of a step on 32 V100. Detection: Table 3's Objects365 row. The others are what makes its row of three datasets, and
# Table 12's GPU-hours, come out.
PAPER_STEP_S: Mapping[Supervision, float] = {"detection": 1.075, "grounding": 0.88, "image_text": 3.9}


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
