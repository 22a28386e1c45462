"""What image-text pairs are worth: the same budget of steps with and without them.

``python benchmarks/image_text_gain.py`` builds the demo's data if need be, trains both recipes (or takes the finished runs),
prints the table and exits with status 1 if the pairs did not make the novel AP50 at least 0.70 and three times as high.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from detclipv2.evaluation.lvis_metrics import LvisMetrics
from pipelines.build.build_config import BuildConfig
from ray_jobs import build_dataset
from ray_jobs.command_line import run_cli
from ray_jobs.job_config import load_recipe
from ray_jobs.pretrain import pretrain
from ray_jobs.register_model import evaluate_and_register
from schemas.manifest import MANIFEST_NAME

RECIPES = {"with image-text pairs": "demo:pretrain", "without": "demo:without_image_text"}
MIN_NOVEL_AP50 = 0.70
MIN_RATIO = 3.0


@dataclass(frozen=True, kw_only=True)
class GainConfig:
    """Train the demo with and without image-text pairs and compare."""

    outputs: Path = Path("outputs")
    """Data, runs and models go below it."""


def main(config: GainConfig) -> None:
    """Train both, print the table, judge."""
    console = Console()
    data_root = config.outputs / "data"
    build_dataset.main(BuildConfig(scale="demo", root=data_root))
    results: dict[str, LvisMetrics] = {}
    table = Table("", "steps", "base AP50", "novel AP50", "Fixed AP")
    for label, recipe in RECIPES.items():
        job = replace(load_recipe(recipe), data=data_root / "datasets" / "demo" / MANIFEST_NAME, outputs=config.outputs)
        run = pretrain(job, console=console)
        metrics = evaluate_and_register(job, run.name, run.state, console=console)
        assert metrics is not None
        results[label] = metrics
        values = (metrics.base_ap50, metrics.novel_ap50, metrics.fixed_ap_10000)
        table.add_row(label, str(job.train.num_steps), *("-" if value is None else f"{value:.3f}" for value in values))
    console.print(table)
    gained, alone = (results[label].novel_ap50 or 0.0 for label in RECIPES)
    reached = gained >= MIN_NOVEL_AP50 and gained >= MIN_RATIO * alone
    console.print(
        f"novel AP50 {gained:.3f} with pairs, {alone:.3f} without: {gained / max(alone, 1e-9):.1f} times as high;"
        f" wanted: at least {MIN_NOVEL_AP50} and {MIN_RATIO:g} times: {'reached' if reached else 'NOT reached'}"
    )
    if not reached:
        sys.exit(1)


if __name__ == "__main__":
    run_cli(GainConfig, main)
