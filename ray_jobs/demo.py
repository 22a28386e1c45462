"""Demo of the whole pipeline in one command: data, training, evaluation, a registered model and a report (``make demo``)."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from detclipv2.evaluation.lvis_metrics import LvisMetrics
from detclipv2.terminal import InertConsole
from pipelines.build.build_config import BuildConfig
from ray_jobs import build_dataset
from ray_jobs.command_line import run_cli
from ray_jobs.job_config import load_recipe
from ray_jobs.pretrain import pretrain
from ray_jobs.register_model import evaluate_and_register
from ray_jobs.writable import check_folder
from schemas.manifest import MANIFEST_NAME


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Build the demo's data, train on it, evaluate, register and report."""

    scale: str = "demo"
    """Scale of the embedded emoji scenes: tiny, demo or demo_large."""
    recipe: str = "demo:pretrain"
    """The training recipe."""
    outputs: Path = Path("outputs")
    """Everything goes below it."""


def main(config: DemoConfig) -> None:
    """Run the whole pipeline."""
    console = InertConsole()
    recipe = load_recipe(config.recipe)  # a slip in its name, or a folder that is none, is no reason to build first
    check_folder(config.outputs, option="outputs")
    started = time.monotonic()
    data_root = config.outputs / "data"
    manifest = data_root / "datasets" / config.scale / MANIFEST_NAME
    console.rule("data")
    build_dataset.main(BuildConfig(scale=config.scale, root=data_root))
    built = time.monotonic()
    console.rule("training")
    job = replace(recipe, data=manifest, outputs=config.outputs)
    run = pretrain(job, console=console)
    trained = time.monotonic()
    console.rule("evaluation")
    metrics = evaluate_and_register(job, run.name, run.state, console=console)
    ended = time.monotonic()
    timing = f"data {built - started:.0f} s, training {trained - built:.0f} s, evaluation {ended - trained:.0f} s"
    console.rule("what was built")
    console.print(last_screen(config, run.name, metrics, timing), soft_wrap=True, highlight=False)


def last_screen(config: DemoConfig, run_name: str, metrics: LvisMetrics | None, timing: str) -> str:
    """What was built, how good it is, and what to try next."""
    lines = [f"An open-vocabulary detector: {config.outputs}/models/{run_name}", f"({timing})"]
    if metrics is not None and metrics.novel_ap50 is not None and metrics.base_ap50 is not None:
        lines += [
            "",
            f"  AP50 {metrics.base_ap50:.2f} on concepts that had boxes in training",
            f"  AP50 {metrics.novel_ap50:.2f} on {len(metrics.novel_categories)} concepts that captions alone taught",
        ]
    validation = sorted((config.outputs / "data" / "validation").glob("*/images/*.jpg"))
    image = validation[0] if validation else "photo.jpg"
    lines += [
        "",
        f"Look at it     {config.outputs}/reports/{run_name}/report.html",
        f'Use it         .venv/bin/detclip predict {image} --names "red apple" guitar kite --out drawn.jpg',
        "See the runs   make ui",
        "Grow it        .venv/bin/python ray_jobs/build_dataset.py --scale demo_large",
        "Your own data  .venv/bin/python ray_jobs/build_dataset.py --urls pairs.parquet --detection coco.json --images photos/",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run_cli(DemoConfig, main)
