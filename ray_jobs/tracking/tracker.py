"""MLflow run of a training: one run, from the first attempt to the last, which the driver owns and workers log to."""

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mlflow
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Param
from mlflow.environment_variables import (
    MLFLOW_HTTP_REQUEST_MAX_RETRIES,
    MLFLOW_HTTP_REQUEST_TIMEOUT,
    MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT,
)
from mlflow.tracking import MlflowClient

from pipelines.storage import data_root
from ray_jobs.job_config import JobConfig
from ray_jobs.tracking.run_logger import RunLogger
from schemas.manifest import DatasetManifest

EXPERIMENT = "detclipv2"
CHECK_TIMEOUT_S = 10  # for the first answer of a tracking server
# What an experiment is for. MLflow 3.17 takes every other one for GenAI.
_KIND_TAG, _KIND = "mlflow.experimentKind", "custom_model_development"
# Whatever the kind, MLflow 3.17's UI opens a page without this as GenAI: an experiment as an empty overview of traces.
_UI_MODE = "?workflowType=machine_learning"
_NAME_TAG = "detclipv2.run_name"
_OPENED_TAG = "detclipv2.opened"  # set when all that a run begins with is logged
_MAX_DIGEST = 36  # characters of a dataset digest that MLflow stores
_MAX_REASON = 160  # characters of an error of MLflow that a line has room for
_MAX_PARAM = 6000  # characters of a parameter's value that MLflow stores

# Whoever trains needs no messages of schema migrations and the like.
for _noisy in ("alembic", "mlflow.store.db.utils", "mlflow.system_metrics"):
    logging.getLogger(_noisy).setLevel(logging.WARNING)
# Twice instead of seven times: while it is not there, a training goes on, and `RunLogger` tries again.
for _variable, _value in ((MLFLOW_HTTP_REQUEST_MAX_RETRIES, 2), (MLFLOW_HTTP_REQUEST_TIMEOUT, 30)):
    if not _variable.is_set():
        _variable.set(_value)
# MLflow's own line links to the empty overview.
if not MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.is_set():
    MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.set(True)


def tracking_uri(given: str | None, outputs: Path) -> str:
    """The given tracking server, else MLFLOW_TRACKING_URI's, else the SQLite database of the outputs folder."""
    if uri := given or os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    outputs.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{outputs.resolve() / 'mlflow.db'}"


def check_tracking(uri: str) -> None:
    """Ask the tracking server, or the database, for the experiment.

    Raises:
        ValueError: there is neither, or it does not answer.
    """
    tries = (MLFLOW_HTTP_REQUEST_MAX_RETRIES, 1), (MLFLOW_HTTP_REQUEST_TIMEOUT, CHECK_TIMEOUT_S)
    with ExitStack() as stack:
        for variable, value in tries:  # a server that is not there would be asked for minutes
            stack.callback(variable.set, variable.get())
            variable.set(min(variable.get(), value))
        try:
            MlflowClient(uri).get_experiment_by_name(EXPERIMENT)
        except Exception as error:  # of MLflow, of its database's driver, of its HTTP client
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ValueError(
                f"tracking_uri {uri}: no MLflow there ({reason[:_MAX_REASON]}); give a server such as http://host:5000, or a"
                " database such as sqlite:///runs.db"
            ) from error


def experiment_id(client: MlflowClient) -> str | None:
    """Id of the experiment, which is marked as model training; None where there is none yet."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is not None and experiment.tags.get(_KIND_TAG) != _KIND:
        client.set_experiment_tag(experiment.experiment_id, _KIND_TAG, _KIND)
    return None if experiment is None else str(experiment.experiment_id)


def runs_page(server: str) -> str:
    """The page with all runs on a tracking server such as ``http://127.0.0.1:5000``; its first page where there is no run."""
    found = experiment_id(MlflowClient(server))
    return server if found is None else f"{server.rstrip('/')}/#/experiments/{found}/runs{_UI_MODE}"


class Tracker:
    """The driver's access to the MLflow run of one training.

    The driver owns the run; workers only add metrics to it. So a worker that dies leaves no run behind that MLflow shows as
    running.
    """

    def __init__(self, job: JobConfig, dataset: DatasetManifest) -> None:
        self.job = job
        self.dataset = dataset
        self.uri = tracking_uri(job.tracking_uri, job.outputs)
        self.client = MlflowClient(self.uri)
        self.run_name = job.run_name(dataset)
        self.run_id = self._open()
        self.logger = RunLogger(self.uri, self.run_id)

    def _open(self) -> str:
        experiment = experiment_id(self.client)
        if experiment is None:
            artifacts = (self.job.outputs.resolve() / "mlartifacts").as_uri() if self.uri.startswith("sqlite") else None
            experiment = self.client.create_experiment(EXPERIMENT, artifact_location=artifacts, tags={_KIND_TAG: _KIND})
        earlier = self.client.search_runs([experiment], f"tags.`{_NAME_TAG}` = '{self.run_name}'", max_results=1)
        if earlier:
            run_id: str = earlier[0].info.run_id
            self.client.update_run(run_id, status="RUNNING")
            if _OPENED_TAG in earlier[0].data.tags:
                return run_id
        else:
            tags = {_NAME_TAG: self.run_name, "data.digest": self.dataset.digest, "data.name": self.dataset.name}
            run_id = self.client.create_run(experiment, run_name=self.run_name, tags=tags).info.run_id
        config = self.job.to_json()
        self.client.log_batch(run_id, params=[Param(name, value[:_MAX_PARAM]) for name, value in _flat(config)])
        self.client.log_dict(run_id, config, "config.json")
        self._log_data(run_id)
        self.client.set_tag(run_id, _OPENED_TAG, "yes")
        return run_id

    def _log_data(self, run_id: str) -> None:
        """The versions of the data as dataset inputs whose digests lead back to the manifest."""
        # Under its digest the manifest stays, even when a dataset of this name is built again.
        manifest = data_root(self.job.data)
        versioned = manifest.with_name(f"{self.dataset.digest[:16]}.json")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow registers the local source twice, and says so
            source = resolve_dataset_source(str(versioned if versioned.is_file() else manifest))
        used = [name for name in self.job.train.supervisions() if name in self.dataset.supervisions]
        contexts = used + (["validation"] if self.dataset.validation_annotations else [])
        mlflow.set_tracking_uri(self.uri)
        with mlflow.start_run(run_id=run_id):
            for context in contexts:
                name = f"{self.dataset.name}-{context}"  # MLflow keeps one input for each name and digest
                data = MetaDataset(source, name=name, digest=self.dataset.digest[:_MAX_DIGEST])  # type: ignore[abstract]
                split = self.dataset.supervisions.get(context)
                mlflow.log_input(data, context=context, tags={"samples": str(split.num_samples)} if split else None)
        self.client.log_dict(run_id, self.dataset.model_dump(), "dataset_manifest.json")
        self.client.update_run(run_id, status="RUNNING")

    def losses(self) -> dict[str, list[tuple[int, float]]]:
        """(step, value) of every logged loss."""
        names = sorted(name for name in self.client.get_run(self.run_id).data.metrics if name.startswith("loss/"))
        histories = {name.removeprefix("loss/"): self.client.get_metric_history(self.run_id, name) for name in names}
        return {name: [(metric.step, metric.value) for metric in history] for name, history in histories.items()}

    def training_seconds(self) -> float:
        """Time that all logged steps took together, whatever attempt they belong to."""
        means = self.client.get_metric_history(self.run_id, "step_s")
        return self.job.train.log_every * sum(metric.value for metric in means)

    def url(self) -> str | None:
        """Page of the run on the tracking server; None where there is only a database."""
        if not self.uri.startswith("http"):
            return None
        experiment = self.client.get_run(self.run_id).info.experiment_id
        return f"{self.uri.rstrip('/')}/#/experiments/{experiment}/runs/{self.run_id}{_UI_MODE}"

    def close(self, status: str, *, unsent: str | None = None) -> str | None:
        """Flush what is not yet logged, and end the run as FINISHED, FAILED or KILLED.

        Args:
            status: how it ended.
            unsent: what the last checkpoint has of the metrics that MLflow had not taken.

        Returns:
            A line on why MLflow does not know of it, or None.
        """
        if unsent is not None:
            self.logger.resend(unsent, after=self.logger.last_step("grad_norm"))
        num_unsent = self.logger.flush()
        try:
            self.client.set_terminated(self.run_id, status)
        except Exception as error:  # of MLflow, of its database's driver, of its HTTP client
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            return (
                f"MLflow at {self.uri} does not answer ({reason[:_MAX_REASON]}): run {self.run_name} stays as it was there;"
                " submit the same job again to bring it up to date"
            )
        return f"MLflow at {self.uri} has not taken {num_unsent:,} metrics" if num_unsent else None


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Name, such as ``train.num_steps``, and value of every leaf of a nested configuration."""
    for key, value in config.items():
        yield from _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", str(value))]
