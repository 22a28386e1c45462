"""MLflow run logging by the processes of a training; the driver owns the run (`tracker.Tracker`)."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric
from mlflow.environment_variables import MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

SYSTEM_METRICS_INTERVAL_S = 5


class RunLogger:
    """Logs metrics and files to a run; it neither opens nor ends it."""

    def __init__(self, uri: str, run_id: str) -> None:
        self.client = MlflowClient(uri)
        self.uri = uri
        self.run_id = run_id
        self._waiting: list[Any] = []  # metrics that MLflow is still writing

    def watch_system(self) -> None:
        """Sample this machine's load from now on, until ``end_watch``, as often as MLflow's own variable says where it is set."""
        mlflow.set_tracking_uri(self.uri)
        if not MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.is_set():
            mlflow.set_system_metrics_sampling_interval(SYSTEM_METRICS_INTERVAL_S)
        mlflow.start_run(run_id=self.run_id, log_system_metrics=True)

    def end_watch(self) -> None:
        """The last sample; how the run ended is for the driver to say."""
        mlflow.end_run()

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Metrics of a step, written while training goes on; ``flush`` waits for them."""
        now = time.time_ns() // 1_000_000
        entries = [Metric(name, value, now, step) for name, value in metrics.items()]
        self._waiting.append(self.client.log_batch(self.run_id, metrics=entries, synchronous=False))

    def flush(self) -> None:
        """Wait until everything is written: a checkpoint must not be ahead of what is logged."""
        for operation in self._waiting:
            operation.wait()
        self._waiting.clear()

    def last_step(self, metric: str) -> int:
        """Highest step of a metric: up to it, what a resumed training repeats is logged already."""
        try:
            return max((entry.step for entry in self.client.get_metric_history(self.run_id, metric)), default=0)
        except MlflowException:
            return 0

    def log_record(self, record: Mapping[str, Any], name: str) -> None:
        """A small record as a JSON artifact."""
        self.client.log_dict(self.run_id, dict(record), name)

    def log_files(self, *paths: Path, folder: str | None = None) -> None:
        """Files as artifacts."""
        for path in paths:
            self.client.log_artifact(self.run_id, str(path), folder)
