"""A tracking server that goes away in mid-run, and comes back."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from ray_jobs.tracking import RunLogger
from tests.ray_jobs.conftest import job_environment


@pytest.fixture
def logger(tmp_path: Path) -> RunLogger:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("e", artifact_location=(tmp_path / "artifacts").as_uri()))
    return RunLogger(uri, run.info.run_id)


def steps(logger: RunLogger, metric: str = "loss/a") -> list[int]:
    return sorted(entry.step for entry in logger.client.get_metric_history(logger.run_id, metric))


def test_metrics_and_records_are_there_after_a_flush(logger: RunLogger) -> None:
    for step in range(1, 4):
        logger.log({"loss/a": 0.5, "grad_norm": 1.0}, step=step)
    logger.log_record({"keys": ["a"]}, "skipped/step.json")

    assert logger.flush() == 0
    assert steps(logger) == [1, 2, 3]
    assert logger.last_step("grad_norm") == 3
    assert [file.path for file in logger.client.list_artifacts(logger.run_id, "skipped")] == ["skipped/step.json"]


def test_what_another_process_could_not_send_is_sent_once(logger: RunLogger) -> None:
    gone = RunLogger("http://127.0.0.1:9", logger.run_id)
    for step in (1, 2, 3):
        gone.log({"loss/a": float(step)}, step=step)
    gone.log_record({"keys": ["a"]}, "skipped/step.json")
    assert gone.flush() == 4
    logger.log({"loss/a": 1.0}, step=1)
    logger.flush()

    logger.resend(gone.unsent(), after=1)

    assert logger.flush() == 0
    assert steps(logger) == [1, 2, 3]
    assert len(json.loads(gone.unsent())["metrics"]) == 3


@contextmanager
def server(port: int, folder: Path) -> Iterator[None]:
    store = ("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--default-artifact-root", folder.as_uri())
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--workers",
            "1",
            *store,
        ],
        env=job_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.5)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.integration
def test_a_server_that_goes_and_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with server(port, tmp_path):
        client = MlflowClient(f"http://127.0.0.1:{port}")
        logger = RunLogger(f"http://127.0.0.1:{port}", client.create_run("0").info.run_id)
        logger.log({"loss/a": 1.0}, step=1)
        assert logger.flush() == 0
    with caplog.at_level(logging.WARNING, logger="ray_jobs"):
        for step in (2, 3):
            logger.log({"loss/a": 1.0}, step=step)
            logger.flush()
        assert logger.num_unsent == 2
        assert not logger.is_reached
    with server(port, tmp_path):
        logger.log({"loss/a": 1.0}, step=4)
        assert logger.flush() == 0
        assert steps(logger) == [1, 2, 3, 4]
    (line,) = [message for message in caplog.messages if "MLflow at" in message]
    assert "training goes on, metrics wait" in line
