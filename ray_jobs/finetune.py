"""Fine-tuning of a model on boxes of one's own: ``python ray_jobs/finetune.py [RECIPE] --model FOLDER --data MANIFEST``.

The recipe is ``finetune:small`` unless given; ``finetune:lvis``, ``finetune:odinw`` and ``finetune:coco`` are the larger ones.
Every ``--train`` option replaces one value of the recipe. The same job submitted again goes on where it stopped.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import tyro

from detclipv2.hub import concepts_path, from_pretrained, model_folder
from detclipv2.inference import Predictor
from detclipv2.terminal import InertConsole
from pipelines.storage import DataRoot
from ray_jobs.command_line import recipe_argument, run_cli
from ray_jobs.evaluate import evaluate, points
from ray_jobs.job_config import JobConfig, RunOptions, load_recipe
from ray_jobs.prepare import prepared_run
from ray_jobs.pretrain import train_prepared
from ray_jobs.register_model import evaluate_and_register


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(RunOptions):
    """Train a model further on a dataset, evaluate it before and after, register it."""

    model: Path
    """A model folder that all workers can read, or the id of a model on the Hugging Face Hub."""
    data: DataRoot
    """Manifest of the dataset, which `python ray_jobs/build_dataset.py --detection coco.json --images photos/` makes."""


def options_of(recipe: JobConfig) -> FinetuneOptions:
    """The options' defaults; model and data have none: a command without them is told so."""
    shared = {field.name for field in fields(FinetuneOptions)} - {"model", "data"}
    return FinetuneOptions(
        model=tyro.MISSING, data=tyro.MISSING, **{name: getattr(recipe, name) for name in sorted(shared)}
    )


def finetune_job(recipe: str, options: FinetuneOptions) -> JobConfig:
    """The training job: the model's own network, text encoder and concept dictionary, and the recipe's way to train.

    Raises:
        ValueError: there is no such model.
    """
    folder = model_folder(options.model).resolve()
    start = from_pretrained(folder)
    others = {field.name: getattr(options, field.name) for field in fields(options) if field.name != "model"}
    return JobConfig(
        recipe=recipe,
        model=start.config,
        start_from=folder,
        concept_dictionary=concepts_path(folder) if start.config.definitions else None,
        **others,
    )


def main(job: JobConfig) -> None:
    """Check, evaluate, train, evaluate, register; figures that are undefined are printed as "-".

    Raises:
        ValueError: what `pretrain` raises it for.
    """
    assert job.start_from is not None
    console = InertConsole()
    prepared = prepared_run(job, console=console)
    before = None
    if prepared.dataset.validation_annotations is not None:
        predictor = Predictor.from_pretrained(job.start_from)
        before = evaluate(predictor, prepared.dataset, data_root=job.data_root, console=console).metrics
        console.print(
            f"before     AP50 {points(before.lvis_ap50_300)}, AP {points(before.lvis_ap_300)}", highlight=False
        )
    run = train_prepared(prepared, console=console)
    after = evaluate_and_register(job, run.name, run.state, console=console)
    if before is not None and after is not None:
        console.print(
            f"fine-tuned AP50 {points(before.lvis_ap50_300)} before, {points(after.lvis_ap50_300)} after;"
            f" AP {points(before.lvis_ap_300)} before, {points(after.lvis_ap_300)} after",
            highlight=False,
        )


if __name__ == "__main__":
    chosen = recipe_argument(default="finetune:small")
    run_cli(
        FinetuneOptions,
        lambda options: main(finetune_job(chosen, options)),
        default=lambda: options_of(load_recipe(chosen)),
    )
