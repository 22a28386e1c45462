"""Fine-tuning of a model on boxes of one's own: ``python ray_jobs/finetune.py [RECIPE] --model FOLDER --data MANIFEST``.

The recipe is ``finetune:small`` unless given; ``finetune:lvis``, ``finetune:odinw`` and ``finetune:coco`` are the larger ones.
Every ``--train`` option replaces one value of the recipe. The same job submitted again goes on where it stopped.
"""

from dataclasses import dataclass, fields
from pathlib import Path

from rich.console import Console

from detclipv2.hub import concepts_path, from_pretrained, model_folder
from detclipv2.inference import Predictor
from pipelines.storage import DataRoot
from ray_jobs.command_line import recipe_argument, run_cli
from ray_jobs.evaluate import evaluate
from ray_jobs.job_config import JobConfig, RunOptions, load_recipe
from ray_jobs.pretrain import pretrain
from ray_jobs.register_model import evaluate_and_register
from schemas.manifest import read_dataset_manifest

AP50, AP = "lvis_ap50_300", "lvis_ap_300"


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(RunOptions):
    """Train a model further on a dataset, evaluate it before and after, register it."""

    model: Path
    """A model folder that all workers can read, or the id of a model on the Hugging Face Hub."""
    data: DataRoot
    """Manifest of the dataset, which `python ray_jobs/build_dataset.py --detection coco.json --images photos/` makes."""


def options_of(recipe: JobConfig) -> FinetuneOptions:
    """The options' defaults; model and data have none."""
    shared = {field.name for field in fields(FinetuneOptions)} - {"model", "data"}
    return FinetuneOptions(
        model=Path("MODEL"), data=Path("MANIFEST"), **{name: getattr(recipe, name) for name in sorted(shared)}
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
    """Evaluate, train, evaluate, register.

    Raises:
        ValueError: the model or the dataset cannot be read, or the dataset has no boxes.
    """
    assert job.start_from is not None
    console = Console()
    dataset = read_dataset_manifest(job.data)
    before = None
    if dataset.validation_annotations is not None:
        predictor = Predictor.from_pretrained(job.start_from)
        before = evaluate(predictor, dataset, data_root=job.data_root, console=console).metrics.to_dict()
        console.print(f"before     AP50 {100 * before[AP50]:.1f}, AP {100 * before[AP]:.1f}", highlight=False)
    run = pretrain(job, console=console)
    metrics = evaluate_and_register(job, run.name, run.state, console=console)
    if before is not None and metrics is not None:
        after = metrics.to_dict()
        console.print(
            f"fine-tuned AP50 {100 * before[AP50]:.1f} before, {100 * after[AP50]:.1f} after;"
            f" AP {100 * before[AP]:.1f} before, {100 * after[AP]:.1f} after",
            highlight=False,
        )


if __name__ == "__main__":
    chosen = recipe_argument(default="finetune:small")
    run_cli(
        FinetuneOptions,
        lambda options: main(finetune_job(chosen, options)),
        default=lambda: options_of(load_recipe(chosen)),
    )
