"""Builds and trainings under SIGTERM, as Slurm and Kubernetes end them, and two trainings of one name."""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from mlflow.tracking import MlflowClient

from ray_jobs.run_storage import RunStorage
from tests.ray_jobs.conftest import ROOT, TINY_OPTIONS, job_environment, run_job

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
WAIT_S = 180.0


def start(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=job_environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def wait_for(process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not ready():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "it does not come so far"
        time.sleep(0.1)


def terminated(process: subprocess.Popen[str]) -> str:
    """Its output after a SIGTERM to it alone; all that it had started is gone."""
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130, output
    _, alive = psutil.wait_procs(started, timeout=60)
    assert alive == []
    for unwanted in ("Traceback", "***", "SIGTERM received", "error:"):
        assert unwanted not in output, output
    assert output.rstrip().endswith("interrupted; what was finished is kept")
    return output


def has_raylet(process: subprocess.Popen[str]) -> bool:
    return any(child.name() == "raylet" for child in psutil.Process(process.pid).children(recursive=True))


@pytest.mark.parametrize("moment", ["Ray starts", "images are made"])
def test_a_build_keeps_what_was_finished(moment: str, tmp_path: Path) -> None:
    command = ("ray_jobs/build_dataset.py", "--scale", "tiny", "--root", str(tmp_path))
    build = start(*command)
    try:
        wait_for(build, lambda: has_raylet(build) if moment == "Ray starts" else any(tmp_path.glob("images/*")))
        tables = set(tmp_path.glob("*/*/MANIFEST.json"))
        terminated(build)
    finally:
        build.kill()
    assert tables <= set(tmp_path.glob("*/*/MANIFEST.json"))
    again = run_job(*command)
    assert again.returncode == 0, again.stdout + again.stderr


def test_a_training_is_killed_for_mlflow_and_goes_on_later(tiny_data: Path, tmp_path: Path) -> None:
    options = (*TINY_OPTIONS, "--train.num-steps", "4000", "--name", "mine")
    command = ("ray_jobs/pretrain.py", "--data", str(tiny_data), "--outputs", str(tmp_path), *options)
    storage = RunStorage(root=tmp_path / "runs", name="mine")
    training = start(*command)
    try:
        wait_for(training, lambda: len(storage.steps()) > 0)
        second = run_job(*command)
        assert second.returncode == 2
        assert f"error: run mine is being trained by process {training.pid} on " in second.stderr
        assert "--name" in second.stderr
        kept = storage.steps()
        terminated(training)
    finally:
        training.kill()
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("detclipv2")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "KILLED"
    assert storage.steps()[-1] >= kept[-1]
    assert list(Path(tempfile.gettempdir()).glob(f"{storage._temporary}*")) == []
    with storage.locked():
        state, _ = storage.newest()
        assert state is not None
