"""Metrics and files of an MLflow run, from any process of a training, which goes on while the tracking server is gone."""

import json
import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric
from mlflow.environment_variables import MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

SYSTEM_METRICS_INTERVAL_S = 5
_MAX_METRICS = 1000  # of a request
_logger = logging.getLogger(__name__)


class RunLogger:
    """Logs to a run that it neither opens nor ends.

    Metrics and records are sent by a thread, in order. What MLflow does not take waits, and is tried again with whatever comes
    next and at each `flush`; `unsent` is what a checkpoint keeps, so that it outlives the process.
    """

    def __init__(self, uri: str, run_id: str) -> None:
        self.client = MlflowClient(uri)
        self.uri = uri
        self.run_id = run_id
        self._metrics: list[Metric] = []
        self._records: list[tuple[str, dict[str, Any]]] = []
        self._lock = threading.Lock()
        self._sender = ThreadPoolExecutor(1, thread_name_prefix="mlflow")
        self._sending: Future[None] | None = None
        self.is_reached = True  # whether MLflow answered the last time

    def watch_system(self) -> None:
        """Sample this machine's load from now on, until ``end_watch``, as often as MLflow's own variable says where it is set."""
        try:
            mlflow.set_tracking_uri(self.uri)
            if not MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.is_set():
                mlflow.set_system_metrics_sampling_interval(SYSTEM_METRICS_INTERVAL_S)
            mlflow.start_run(run_id=self.run_id, log_system_metrics=True)
        except Exception as error:  # of MLflow, of its database's driver, of its HTTP client
            self._warn(error)

    def end_watch(self) -> None:
        """The last sample; how the run ended is for the driver to say."""
        try:
            mlflow.end_run()
        except Exception as error:
            self._warn(error)

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Metrics of a step, written while training goes on; ``flush`` waits for them."""
        now = time.time_ns() // 1_000_000
        with self._lock:
            self._metrics += [Metric(name, value, now, step) for name, value in metrics.items()]
        self._send_soon()

    def log_record(self, record: Mapping[str, Any], name: str) -> None:
        """A JSON file of the run, written as metrics are."""
        with self._lock:
            self._records.append((name, dict(record)))
        self._send_soon()

    def flush(self) -> int:
        """Wait until everything is written, or cannot be: a checkpoint must not be ahead of what is logged.

        Returns:
            How many metrics and records wait for MLflow to come back.
        """
        if self._sending is not None:
            self._sending.result()
        if self.num_unsent and self.is_reached:
            self._sender.submit(self._send).result()
        return self.num_unsent

    @property
    def num_unsent(self) -> int:
        """Metrics and records that MLflow has not taken."""
        with self._lock:
            return len(self._metrics) + len(self._records)

    def unsent(self) -> str:
        """These metrics and records as JSON, for `resend`."""
        with self._lock:
            metrics = [[metric.key, metric.value, metric.timestamp, metric.step] for metric in self._metrics]
            return json.dumps({"metrics": metrics, "records": self._records})

    def resend(self, unsent: str, *, after: int) -> None:
        """Log what an earlier process could not, but for metrics of the steps up to ``after``, which MLflow has."""
        content = json.loads(unsent)
        with self._lock:
            self._metrics += [Metric(*entry) for entry in content["metrics"] if entry[3] > after]
            self._records += [(name, record) for name, record in content["records"]]
        self._send_soon()

    def last_step(self, metric: str) -> int:
        """Highest step of a metric: up to it, what a resumed training repeats is logged already."""
        try:
            return max((entry.step for entry in self.client.get_metric_history(self.run_id, metric)), default=0)
        except MlflowException:  # no such metric
            return 0
        except Exception as error:  # of its database's driver, of its HTTP client
            self._warn(error)
            return 0

    def log_files(self, *paths: Path, folder: str | None = None) -> None:
        """Files as artifacts."""
        for path in paths:
            self.client.log_artifact(self.run_id, str(path), folder)

    def _send_soon(self) -> None:
        if self._sending is None or self._sending.done():
            self._sending = self._sender.submit(self._send)

    def _send(self) -> None:
        """Send all that waits, the oldest first, until MLflow fails."""
        with suppress(_NotReachedError):
            while self.num_unsent:
                with self._lock:
                    metrics, records = self._metrics[:_MAX_METRICS], self._records[:1]
                if metrics:
                    self._try(lambda batch=metrics: self.client.log_batch(self.run_id, metrics=batch))
                    with self._lock:
                        del self._metrics[: len(metrics)]
                if records:
                    ((name, record),) = records
                    self._try(lambda name=name, record=record: self.client.log_dict(self.run_id, record, name))
                    with self._lock:
                        del self._records[:1]
            self.is_reached = True

    def _try(self, send: Any) -> None:
        try:
            send()
        except Exception as error:  # of MLflow, of its database's driver, of its HTTP client
            self._warn(error)
            raise _NotReachedError from error

    def _warn(self, error: Exception) -> None:
        """Say once for each time that it is gone."""
        if self.is_reached:
            reason = " ".join(str(error).split())[:160]
            _logger.warning("MLflow at %s cannot be reached (%s): training goes on, metrics wait", self.uri, reason)
        self.is_reached = False


class _NotReachedError(Exception):
    """MLflow did not take something; what waits stays where it is."""
