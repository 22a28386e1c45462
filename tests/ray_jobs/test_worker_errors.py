"""What a user got wrong, or what a dataset does not have, on a real Ray cluster."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient
from ray.train import ControllerError, WorkerGroupError

from detclipv2.config import ModelConfig
from detclipv2.hub import save_pretrained
from detclipv2.models.detector import DetCLIPv2
from ray_jobs import promote
from ray_jobs.worker_errors import EndAtUserErrors, user_error
from schemas.manifest import read_dataset_manifest
from tests.ray_jobs.conftest import run_job
from tests.ray_jobs.small_dataset import sample, write_dataset

BOXES = [sample("detection", ["apple", "guitar"], boxes=1)] * 8
PAIRS = [sample("image_text", [name]) for name in ("a kite", "an owl", "a red apple", "a boat")]
LONG_S = 500  # on a machine that others use as well
SHORT = (
    *("--train.num-steps", "4", "--num-workers", "1", "--model.backbone-weights", "random"),
    *("--train.detection.image-size", "64", "--train.image-text.image-size", "64"),
    *("--train.detection.batch-size", "2", "--train.image-text.batch-size", "2"),
)


@pytest.mark.parametrize("error", [ValueError("shard a.tar is damaged"), FloatingPointError("shard a.tar is damaged")])
def test_what_no_retry_repairs_ends_the_training(error: Exception) -> None:
    with pytest.raises(ValueError, match="shard a.tar is damaged"):
        EndAtUserErrors().after_exception(None, {0: RuntimeError("connection closed"), 1: error})


def test_other_failures_are_left_to_ray_train() -> None:
    EndAtUserErrors().after_exception(None, {0: RuntimeError("connection closed"), 1: OSError("disk")})


def test_only_a_user_error_is_taken_for_one() -> None:
    error = ValueError("damaged")

    assert user_error(ControllerError(error)) is error
    assert user_error(ControllerError(RuntimeError("no nodes"))) is None
    assert user_error(WorkerGroupError("lost", {0: RuntimeError("lost")})) is None


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_a_shard_that_no_worker_can_read_ends_the_training_in_one_line(tmp_path: Path) -> None:
    path = write_dataset(tmp_path, BOXES)
    entry = read_dataset_manifest(path).supervisions["detection"].shards[0]
    shard = tmp_path / entry.path
    content = bytearray(shard.read_bytes())
    content[1024:] = b"x" * (len(content) - 1024)
    shard.write_bytes(content)
    # As it was built, by the manifest: only who reads a sample finds out.
    path.write_text(path.read_text().replace(entry.sha256, hashlib.sha256(content).hexdigest()))

    failed = run_job(
        "ray_jobs/pretrain.py", "--data", str(path), "--outputs", str(tmp_path / "outputs"), *SHORT, timeout_s=LONG_S
    )

    assert failed.returncode == 2, failed.stdout + failed.stderr
    (line,) = failed.stderr.splitlines()
    assert line.startswith("error: run demo-pretrain-")
    assert str(shard) in line and "build the dataset again" in line
    client = MlflowClient(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("detclipv2")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_pairs_alone_are_trained_on(tmp_path: Path) -> None:
    path = write_dataset(tmp_path, PAIRS)

    done = run_job(
        "ray_jobs/pretrain.py", "--data", str(path), "--outputs", str(tmp_path / "outputs"), *SHORT, timeout_s=LONG_S
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "without detection, grounding: the dataset has no such samples" in done.stdout
    assert "the dataset has no validation set to measure it on" in done.stdout
    assert len(list((tmp_path / "outputs" / "models").glob("*/config.json"))) == 1


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_figures_of_a_validation_set_without_a_box_are_undefined(
    tiny_config: ModelConfig,
    tiny_detector: Callable[..., DetCLIPv2],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_dataset(tmp_path, BOXES, validation_boxes=0)
    detector = tiny_detector()
    torch.nn.init.constant_(detector.text_encoder.projection.bias, 0.25)
    save_pretrained(tmp_path / "start", detector, config=tiny_config, image_size=64, data_digest="d")

    done = run_job(
        *("ray_jobs/finetune.py", "--model", str(tmp_path / "start"), "--data", str(path)),
        *("--outputs", str(tmp_path / "outputs"), "--num-workers", "1", "--train.epochs", "None"),
        *("--train.num-steps", "2", "--train.detection.image-size", "64", "--train.detection.batch-size", "2"),
        timeout_s=LONG_S,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "before     AP50 -, AP -" in done.stdout
    assert "fine-tuned AP50 - before, - after; AP - before, - after" in done.stdout
    assert "registered as detclipv2 version 1" in done.stdout

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ValueError, match="novel_ap50 is undefined on the validation set of"):
        promote.main(promote.PromoteConfig(data=path, outputs=tmp_path / "outputs", metric="novel_ap50"))
