"""Model promotion: compare a version of the registered model with the champion; the better one is the champion.

``python ray_jobs/promote.py --data outputs/data/datasets/demo/MANIFEST.json --metric novel_ap50``
"""

import math
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from detclipv2.evaluation.lvis_metrics import METRIC_NAMES
from detclipv2.inference import Predictor
from detclipv2.terminal import InertConsole
from pipelines.storage import DataRoot
from ray_jobs.command_line import run_cli
from ray_jobs.dataset_files import root_of_dataset
from ray_jobs.evaluate import evaluate
from ray_jobs.job_config import check_name
from ray_jobs.tracking import CANDIDATE, CHAMPION, Registry, Version, check_tracking, tracking_uri
from ray_jobs.writable import check_folder
from schemas.manifest import DatasetManifest, read_dataset_manifest


@dataclass(frozen=True, kw_only=True)
class PromoteConfig:
    """Measure a version and the champion on the same images; the better one is the champion from then on.

    Both are measured again: earlier figures may come from other data. The comparison is kept as a file of the version's run.
    """

    data: DataRoot = Path("outputs/data/datasets/demo/MANIFEST.json")
    """Manifest of the dataset whose validation set decides: a path, or a URL such as s3://..."""
    version: str = CANDIDATE
    """Number or alias of the version."""
    metric: str = "fixed_ap_10000"
    """What decides, larger being better: any of the metrics that evaluation gives."""
    min_gain: float = 0.0
    """By how much it has to be better."""
    registered_model: str = "detclipv2"
    """Name of the registered model."""
    outputs: Path = Path("outputs")
    """Folder of the MLflow database."""
    tracking_uri: str | None = None
    """MLflow's tracking server or database; MLFLOW_TRACKING_URI, else the database below outputs, unless given."""


def main(config: PromoteConfig) -> None:
    """Compare, record, and promote if better.

    Raises:
        ValueError: there is no such version or metric, its model folder is gone, or the dataset has no validation set.
    """
    console = InertConsole()
    check_name(config.registered_model, option="registered_model")
    if config.metric not in METRIC_NAMES:
        raise ValueError(f"no metric {config.metric!r}: there are {', '.join(METRIC_NAMES)}")
    if not math.isfinite(config.min_gain):
        raise ValueError(f"min_gain {config.min_gain}: a finite number")
    dataset = read_dataset_manifest(config.data)
    if dataset.validation_annotations is None:
        raise ValueError(f"{config.data}: it has no validation set to compare on; name a dataset that has one")
    check_folder(config.outputs, option="outputs")
    check_tracking(tracking_uri(config.tracking_uri, config.outputs))
    registry = Registry(tracking_uri(config.tracking_uri, config.outputs), config.registered_model)
    version, champion = registry.version(config.version), registry.version(CHAMPION)
    if version is None:
        raise ValueError(
            f"{config.registered_model} has no version {config.version!r}: train one, or look with `make ui`"
        )
    if champion == version:
        console.print(f"version {version.number} of {config.registered_model} is the champion already", highlight=False)
        return
    measured = {one.number: _measure(one, dataset, config, console) for one in (version, champion) if one is not None}
    promoted = champion is None or measured[version.number] > measured[champion.number] + config.min_gain
    record = {
        "metric": config.metric,
        "candidate": version.number,
        "champion": None if champion is None else champion.number,
        "values": measured,
        "min_gain": config.min_gain,
        "data": dataset.name,
        "data_digest": dataset.digest,
        "promoted": promoted,
    }
    registry.record_comparison(version, record, promoted=promoted)
    title = f"on the validation set of {config.data}"
    table = Table("version", "role", "run", config.metric, title=title, title_justify="left")
    for one, role in ((version, "candidate"), (champion, "champion")):
        if one is not None:
            table.add_row(one.number, role, one.run_id, f"{measured[one.number]:.4f}")
    console.print(table)
    kept = f"stays a candidate; version {record['champion']} is champion"
    verdict = "is the champion now" if promoted else kept
    console.print(f"version {version.number} {verdict}; the comparison is with its run", highlight=False)


def _measure(version: Version, dataset: DatasetManifest, config: PromoteConfig, console: Console) -> float:
    predictor = Predictor.from_pretrained(version.folder)
    evaluated = evaluate(predictor, dataset, data_root=root_of_dataset(config.data), console=console)
    metrics = evaluated.metrics.to_dict()
    if config.metric not in metrics:
        raise ValueError(
            f"{config.metric} is undefined on the validation set of {config.data}, which has no box of such categories:"
            f" nothing to compare; take another --metric ({', '.join(sorted(metrics))}) or another dataset"
        )
    return metrics[config.metric]


if __name__ == "__main__":
    run_cli(PromoteConfig, main)
