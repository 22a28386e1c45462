from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from ray_jobs.job_config import JobConfig, load_recipe
from ray_jobs.tracking import Tracker, runs_page
from schemas.manifest import DatasetManifest

DATASET = DatasetManifest(name="mine", supervisions={}, boxed_concepts=[])
KIND = {"mlflow.experimentKind": "custom_model_development"}


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobConfig:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow writes it where another test has set one
    return replace(load_recipe("demo:pretrain"), outputs=tmp_path, data=tmp_path / "datasets/mine/MANIFEST.json")


def test_the_experiment_is_one_of_model_training_also_where_an_earlier_version_made_it(job: JobConfig) -> None:
    client = MlflowClient(f"sqlite:///{job.outputs / 'mlflow.db'}")
    kinds = []
    for _ in range(2):
        tracker = Tracker(job, DATASET)
        experiment = client.get_experiment_by_name("detclipv2")
        assert experiment is not None
        kinds.append(experiment.tags)
        client.delete_experiment_tag(experiment.experiment_id, "mlflow.experimentKind")
        tracker.close("FINISHED")

    assert kinds == [KIND, KIND]


def test_links_lead_to_the_pages_of_model_training(job: JobConfig) -> None:
    tracker = Tracker(job, DATASET)
    assert tracker.url() is None, "a database has no pages"
    experiment = tracker.client.get_run(tracker.run_id).info.experiment_id

    assert runs_page(tracker.uri) == f"{tracker.uri}/#/experiments/{experiment}/runs?workflowType=machine_learning"
    tracker.uri = "http://mlflow.test:5000/"
    page = f"http://mlflow.test:5000/#/experiments/{experiment}/runs/{tracker.run_id}?workflowType=machine_learning"
    assert tracker.url() == page


def test_a_store_without_runs_has_its_first_page(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert runs_page(uri) == uri


def test_parameters_are_flat(job: JobConfig) -> None:
    tracker = Tracker(job, DATASET)
    params = tracker.client.get_run(tracker.run_id).data.params

    assert params["train.num_steps"] == "720"
    assert params["train.optim.learning_rate"] == "0.002"
    assert params["recipe"] == "demo:pretrain"
