"""The training half of the pipeline, on a real Ray cluster, MLflow database and dataset."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from PIL import Image

from detclipv2.text.dictionary import ConceptDictionary
from schemas.manifest import read_dataset_manifest
from tests.ray_jobs.conftest import ROOT, TINY_OPTIONS, job_environment, run_job

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def only_run(outputs: Path) -> tuple[MlflowClient, Run]:
    client = MlflowClient(f"sqlite:///{outputs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("detclipv2")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


def logged_steps(client: MlflowClient, run: Run, metric: str) -> list[int]:
    return [entry.step for entry in client.get_metric_history(run.info.run_id, metric)]


@pytest.fixture(scope="module")
def submitted(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Outputs and log of a training that was submitted as a Ray job and lost a worker to kill -9 in mid-run."""
    folder = tmp_path_factory.mktemp("outputs")
    ray = str(Path(sys.executable).parent / "ray")
    dashboard = _free_port()
    head = subprocess.Popen(
        [
            *(
                ray,
                "start",
                "--head",
                "--block",
                "--disable-usage-stats",
                "--num-cpus",
                "2",
                "--port",
                str(_free_port()),
            ),
            *("--node-ip-address", "127.0.0.1", "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)),
            *("--temp-dir", f"/tmp/ray-{os.getpid()}"),
        ],
        cwd=ROOT,
        env=job_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    job = None
    try:
        submit = (ray, "job", "submit", "--address", f"http://127.0.0.1:{dashboard}", "--")
        ready = partial(subprocess.run, [*submit, "true"], cwd="/", env=job_environment(), capture_output=True)
        _wait_for(lambda: ready().returncode == 0, "the head takes no jobs")
        data = os.path.relpath(tiny_data, ROOT)  # as the default is: relative to the head's folder, not the submitter's
        job = subprocess.Popen(
            [
                *(*submit, "python"),
                *("ray_jobs/pretrain.py", "--data", data, "--outputs", str(folder), *TINY_OPTIONS),
            ],
            cwd="/",
            env=job_environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        _wait_for(lambda: bool(list((folder / "runs").glob("*/checkpoint_*"))), "no checkpoint")
        os.kill(_worker_pid(psutil.Process(head.pid)), signal.SIGKILL)
        log, _ = job.communicate(timeout=240)
        assert job.returncode == 0, log
    finally:
        if job is not None and job.poll() is None:
            job.kill()
        os.killpg(head.pid, signal.SIGTERM)
        try:
            head.wait(timeout=60)  # it ends its own processes one after the other
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
    return folder, log


@pytest.fixture(scope="module")
def outputs(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one training on this machine leaves behind."""
    folder = tmp_path_factory.mktemp("outputs")
    data = os.path.relpath(tiny_data, ROOT)  # as the default is: relative to the driver's folder
    options = ("--data", data, "--outputs", str(folder), "--validate-every", "6", *TINY_OPTIONS)
    job = run_job("ray_jobs/pretrain.py", *options)
    assert job.returncode == 0, job.stdout + job.stderr
    return folder


def test_relative_paths_are_those_of_the_folder_that_the_job_starts_in(tiny_data: Path, tmp_path: Path) -> None:
    """With the README's own options: a worker's folder is another, and it reads the dictionary."""
    ConceptDictionary(definitions={"owl": "a bird with large eyes", "kite": "a toy on a string"}).save(
        tmp_path / "concepts.json"
    )
    data = os.path.relpath(tiny_data, tmp_path)
    options = ("--concept-dictionary", "concepts.json", "--model.definitions", "on", "--outputs", "mine")

    job = run_job("ray_jobs/pretrain.py", "--data", data, *options, *TINY_OPTIONS, cwd=tmp_path)

    assert job.returncode == 0, job.stdout + job.stderr
    assert list((tmp_path / "mine" / "models").glob("*/concepts.json"))


def _wait_for(condition: Callable[[], bool], complaint: str, timeout_s: float = 150) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, complaint
        time.sleep(0.1)


def _worker_pid(head: psutil.Process) -> int:
    """A Ray Train worker of the cluster."""
    for process in head.children(recursive=True):
        if "RayTrainWorker" in " ".join(process.cmdline()):
            return process.pid
    raise AssertionError("no training worker")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.slow
def test_a_submitted_job_survives_the_loss_of_a_worker(submitted: tuple[Path, str]) -> None:
    folder, log = submitted
    assert "novel concepts" in log
    client, run = only_run(folder)
    assert run.info.status == "FINISHED"
    assert logged_steps(client, run, "grad_norm") == [2, 4, 6, 8, 10, 12], "every step once, none missing"


def test_one_run_with_curves_data_versions_and_files(outputs: Path, tiny_data: Path) -> None:
    client, run = only_run(outputs)
    assert run.info.status == "FINISHED"
    assert logged_steps(client, run, "grad_norm") == [2, 4, 6, 8, 10, 12]
    dataset = read_dataset_manifest(tiny_data)
    inputs = {
        tag.value: entry
        for entry in run.inputs.dataset_inputs
        for tag in entry.tags
        if tag.key == "mlflow.data.context"
    }
    assert set(inputs) == {"detection", "grounding", "image_text", "validation"}
    for entry in inputs.values():
        assert dataset.digest.startswith(entry.dataset.digest)
        source = json.loads(entry.dataset.source)["uri"]
        assert read_dataset_manifest(Path(source)).digest == dataset.digest, "the digest leads back to the manifest"
    assert run.data.params["train.num_steps"] == "12"
    assert run.data.params["model.backbone"] == "tf_efficientnet_lite0"
    assert any(name.startswith("system/") for name in run.data.metrics)
    assert {"val/novel_ap50", "val/base_ap50", "val/lvis_ap_300", "val/fixed_ap_10000"} <= run.data.metrics.keys()
    assert logged_steps(client, run, "val/fixed_ap_10000") == [6, 12], "during training, and at the end"
    during = [Path(entry.path).name for entry in client.list_artifacts(run.info.run_id, "detections/step_000000006")]
    after = [Path(entry.path).name for entry in client.list_artifacts(run.info.run_id, "detections")]
    assert during
    assert set(during) <= set(after), "the same images each time"
    artifacts = {entry.path for entry in client.list_artifacts(run.info.run_id)}
    assert {"config.json", "dataset_manifest.json", "report.html", "detections"} <= artifacts


def test_what_a_week_of_training_is_watched_by(outputs: Path) -> None:
    _, run = only_run(outputs)
    wanted = {"step_s", "data_wait_share", "memory_bytes", "skipped_steps", "tflops_per_s"}
    wanted |= {f"images_per_s/{kind}" for kind in ("detection", "grounding", "image_text")}
    assert wanted <= run.data.metrics.keys()
    assert run.data.metrics["skipped_steps"] == 0


def test_registered_model_version_has_an_alias_and_can_be_used(outputs: Path, tmp_path: Path) -> None:
    client, run = only_run(outputs)
    version = client.get_model_version_by_alias("detclipv2", "candidate")
    assert version.run_id == run.info.run_id
    model = Path(version.source.removeprefix("file://"))
    Image.new("RGB", (120, 80), "white").save(tmp_path / "photo.jpg")
    used = run_job(
        *("-m", "detclipv2.cli", "predict", str(tmp_path / "photo.jpg"), "--names", "red apple", "guitar"),
        *("--model", str(model), "--out", str(tmp_path / "found.json"), "--threshold", "0"),
    )
    assert used.returncode == 0, used.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert {row["name"] for row in found["detections"]} <= {"red apple", "guitar"}


def test_the_same_job_again_trains_nothing_and_leaves_one_run(outputs: Path, tiny_data: Path) -> None:
    again = run_job("ray_jobs/pretrain.py", "--data", str(tiny_data), "--outputs", str(outputs), *TINY_OPTIONS)
    assert again.returncode == 0, again.stderr
    assert "up to date" in again.stdout
    client, run = only_run(outputs)
    assert run.info.status == "FINISHED"
    assert logged_steps(client, run, "grad_norm") == [2, 4, 6, 8, 10, 12]


def test_only_a_recorded_comparison_makes_a_champion(outputs: Path, tiny_data: Path) -> None:
    client, run = only_run(outputs)
    command = ("ray_jobs/promote.py", "--data", str(tiny_data), "--outputs", str(outputs), "--metric", "lvis_ap_300")
    assert "champion" not in client.get_registered_model("detclipv2").aliases

    first = run_job(*command)
    again = run_job(*command)
    unknown = run_job(*command, "--version", "77")

    assert first.returncode == 0, first.stderr
    assert "version 1 is the champion now" in first.stdout
    assert "champion already" in again.stdout
    assert str(client.get_registered_model("detclipv2").aliases["champion"]) == "1"
    comparisons = [entry.path for entry in client.list_artifacts(run.info.run_id, "comparisons")]
    assert comparisons == ["comparisons/detclipv2-1-with-none.json"]
    assert unknown.returncode == 2
    assert "has no version '77'" in unknown.stderr


def test_a_shard_cut_in_half_is_named_before_anything_starts(tiny_data: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(tiny_data.parents[2], root)
    dataset = read_dataset_manifest(tiny_data)
    shard = root / dataset.supervisions["detection"].shards[0].path
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    failed = run_job(
        "ray_jobs/pretrain.py",
        "--data",
        str(root / "datasets/tiny/MANIFEST.json"),
        "--outputs",
        str(tmp_path),
        *TINY_OPTIONS,
    )
    assert failed.returncode == 2
    assert str(shard) in failed.stderr
    assert "cut off" in failed.stderr
    assert "Traceback" not in failed.stderr
