"""Fine-tune a model on boxes of one's own: ``python ray_jobs/finetune.py [RECIPE] --model FOLDER --data MANIFEST``.

The recipe is ``finetune:small`` unless given; ``finetune:lvis``, ``finetune:odinw`` and ``finetune:coco`` are the larger ones.
Every ``--train`` option replaces one value of it. The same job submitted again goes on where it stopped.
"""

import sys
import warnings
from dataclasses import dataclass, fields
from pathlib import Path

from rich.console import Console

from detclipv2.config import TrainConfig
from detclipv2.evaluation.lvis_metrics import LvisMetrics
from detclipv2.hub import concepts_path, from_pretrained, model_folder
from detclipv2.inference import Predictor
from pipelines.storage import DataRoot
from ray_jobs.cli import run_cli
from ray_jobs.evaluate import evaluate
from ray_jobs.job import JobConfig, load_recipe
from ray_jobs.pretrain import pretrain
from ray_jobs.publish import evaluate_and_register
from schemas.manifest import read_dataset_manifest

DEFAULT_RECIPE = "finetune:small"


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """Train a model further on a dataset, evaluate it before and after, register it."""

    model: Path
    """A model folder that all workers can read, or the id of a model on the Hugging Face Hub."""
    train: TrainConfig
    """How to train."""
    data: DataRoot
    """Manifest of the dataset, which `python ray_jobs/build_dataset.py --detection coco.json --images photos/` makes."""
    outputs: Path = Path("outputs")
    """Runs, models and the MLflow database go below it."""
    name: str | None = None
    """Name of the run; the recipe and a digest of configuration, model and data unless given."""
    num_workers: int = 2
    """Processes that train together."""
    use_gpu: bool = False
    """Whether each of them gets a GPU."""
    max_failures: int = 3
    """Worker failures from which training recovers by itself."""
    tracking_uri: str | None = None
    """MLflow's tracking server or database."""
    registered_model: str = "detclipv2"
    """Name under which the model is registered."""


@dataclass(frozen=True, kw_only=True)
class Finetuned:
    """How good a model was and is; None where the dataset has no validation set."""

    before: LvisMetrics | None
    after: LvisMetrics | None


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


def finetune(job: JobConfig, *, console: Console) -> Finetuned:
    """Evaluate, train, evaluate, register.

    Raises:
        ValueError: the model or the dataset cannot be read, or the dataset has no boxes.
    """
    assert job.start_from is not None
    dataset = read_dataset_manifest(job.data)
    before = None
    if dataset.validation_annotations is not None:
        predictor = Predictor.from_pretrained(job.start_from)
        before = evaluate(predictor, dataset, data_root=job.data_root, console=console).metrics
        console.print(f"before     AP50 {_ap50(before):.1f}, AP {_ap(before):.1f}", highlight=False)
    run = pretrain(job, console=console)
    after = evaluate_and_register(job, run.name, run.state, console=console)
    if before is not None and after is not None:
        console.print(
            f"fine-tuned AP50 {_ap50(before):.1f} before, {_ap50(after):.1f} after;"
            f" AP {_ap(before):.1f} before, {_ap(after):.1f} after",
            highlight=False,
        )
    return Finetuned(before=before, after=after)


def _ap50(metrics: LvisMetrics) -> float:
    return 100 * metrics.to_dict()["lvis_ap50_300"]


def _ap(metrics: LvisMetrics) -> float:
    return 100 * metrics.to_dict()["lvis_ap_300"]


def main(recipe: str, options: FinetuneOptions) -> None:
    """Fine-tune, and say where everything is."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    finetune(finetune_job(recipe, options), console=Console())


if __name__ == "__main__":
    chosen = sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else DEFAULT_RECIPE
    run_cli(FinetuneOptions, lambda options: main(chosen, options), default=lambda: options_of(load_recipe(chosen)))
