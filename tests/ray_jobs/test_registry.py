import json
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from ray_jobs.tracking import CANDIDATE, CHAMPION, Registry

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def run_id(uri: str, tmp_path: Path) -> str:
    client = MlflowClient(uri)
    experiment = client.create_experiment(tmp_path.name, artifact_location=(tmp_path / "artifacts").as_uri())
    return str(client.create_run(experiment).info.run_id)


def test_versions_candidate_and_champion(uri: str, run_id: str, tmp_path: Path) -> None:
    registry = Registry(uri, "detector")
    assert registry.version(CANDIDATE) is None
    assert registry.version("7") is None

    first = registry.register(tmp_path / "first", run_id=run_id, tags={"data_digest": "abc"})
    second = registry.register(tmp_path / "second", run_id=run_id, tags={})
    again = registry.register(tmp_path / "first", run_id=run_id, tags={})

    assert (first, second, again) == ("1", "2", "1")
    candidate = registry.version(CANDIDATE)
    assert candidate is not None
    assert (candidate.number, candidate.folder) == ("2", tmp_path / "second")
    assert registry.version(CHAMPION) is None, "nobody is champion without a comparison"

    record = {"metric": "ap", "champion": None, "data_digest": "abc", "values": {"2": 0.5}}
    registry.record_comparison(candidate, record, promoted=True)
    champion = registry.version(CHAMPION)
    assert champion is not None
    assert champion.number == "2"

    old = registry.version("1")
    assert old is not None
    lost = {"metric": "ap", "champion": "2", "data_digest": "abc", "values": {"1": 0.4, "2": 0.5}}
    registry.record_comparison(old, lost, promoted=False)
    champion = registry.version(CHAMPION)
    assert champion is not None
    assert champion.number == "2"
    tags = MlflowClient(uri).get_model_version("detector", "1").tags
    assert (tags["comparison.result"], tags["comparison.champion"]) == ("lost", "2")
    mlflow.set_tracking_uri(uri)
    kept = mlflow.artifacts.load_text(f"runs:/{run_id}/comparisons/detector-1-with-2.json")
    assert json.loads(kept) == lost


def test_a_version_that_was_left_without_its_alias_gets_it(uri: str, run_id: str, tmp_path: Path) -> None:
    registry = Registry(uri, "other")
    registry.register(tmp_path / "only", run_id=run_id, tags={})
    registry.client.delete_registered_model_alias("other", CANDIDATE)  # as if killed in between

    registry.register(tmp_path / "only", run_id=run_id, tags={})

    candidate = registry.version(CANDIDATE)
    assert candidate is not None
    assert candidate.number == "1"
