"""``detclip plan``: what a recipe takes on given GPUs. The entry point group ``detclip.commands`` names `commands`."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from detclipv2.config import Supervision
from detclipv2.planning.table import plan_tables
from detclipv2.planning.training_plan import PAPER_DATA, PHRASES_PER_PAIR, DataSize, gpu_named, make_plan
from detclipv2.terminal import InertConsole
from pipelines.storage import DataRoot
from ray_jobs.job_config import JobConfig, load_recipe
from ray_jobs.measure import RATES_PATH, add_rates, measured_rates, paper_rates, read_rates
from schemas.manifest import DatasetManifest, read_dataset_manifest


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Steps, operations, memory, hours and cost of a recipe, before it runs; what would not fit, and how to fix it."""

    recipe: str
    """Such as detclipv2_t:pretrain."""
    gpus: int | None = None
    """GPUs that train together, or processes on CPUs; the recipe's unless given."""
    gpu: str = "h100"
    """v100, a100-40, a100-80, h100, h200, l4, rtx4090, b200; or cpu."""
    data: DataRoot | None = None
    """Manifest of the dataset; the sizes of the paper's datasets unless given."""
    price_per_gpu_hour: float | None = None
    """For the cost, in whatever currency."""
    measure: bool = False
    """Run a few real steps of the recipe on this machine, which must have what --gpu says, and put their rates into --rates."""
    rates: Path = RATES_PATH
    """Table of measured rates: below the outputs, like all that the commands write."""


def plan(options: Annotated[PlanOptions, tyro.conf.arg(name="")]) -> None:
    """Run ``detclip plan``.

    Raises:
        ValueError: there is no such recipe, GPU or dataset, or the recipe's weights are not there.
    """
    job = load_recipe(options.recipe)
    gpu = None if options.gpu == "cpu" else gpu_named(options.gpu)
    if options.data is None:
        sizes = PAPER_DATA
    else:
        manifest = read_dataset_manifest(options.data)
        job = replace(job, data=options.data).for_dataset(manifest)
        sizes = data_sizes(manifest, job)
    if options.gpus is not None and options.gpus < 1:
        raise ValueError(f"--gpus {options.gpus}: at least 1")
    if options.measure:
        add_rates(measured_rates(job, gpu=gpu, sizes=sizes), path=options.rates)
    rates = read_rates(options.rates)
    planned = make_plan(
        job.model,
        job.train,
        recipe=job.recipe,
        sizes=sizes,
        gpu=gpu,
        num_processes=options.gpus or job.num_workers,
        rates=rates if gpu is None else [*paper_rates(), *rates],
    )
    console = InertConsole() if os.isatty(1) else InertConsole(width=130)
    console.print(plan_tables(planned, price_per_gpu_hour=options.price_per_gpu_hour))


def data_sizes(manifest: DatasetManifest, job: JobConfig) -> dict[Supervision, DataSize]:
    """What a plan needs to know of a dataset.

    Concepts of grounding images are drawn from its phrases, from those of captions, and from the concept dictionary.
    """
    splits = {name: manifest.supervisions[name] for name in job.train.supervisions()}
    captions = splits["image_text"].vocabulary if "image_text" in splits else []
    has_dictionary = job.concept_dictionary is not None and job.concept_dictionary.is_file()
    dictionary = job.dictionary() if has_dictionary else None
    others = {*captions, *([] if dictionary is None else dictionary.definitions)}
    return {
        name: DataSize(
            num_samples=split.num_samples,
            num_concepts=len({*split.vocabulary, *(others if name == "grounding" else ())}),
            phrases_per_sample=PHRASES_PER_PAIR,
        )
        for name, split in splits.items()
    }


commands: dict[str, Callable[..., None]] = {"plan": plan}
