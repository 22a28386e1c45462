"""`make ui`: three servers on loopback that end together."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.ray_jobs.conftest import ROOT, job_environment, run_job

pytestmark = [pytest.mark.integration, pytest.mark.timeout(200)]


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def test_serves_three_pages_and_ends_what_it_started(tmp_path: Path) -> None:
    mlflow, dagster, ray = free_ports(3)
    ports = ["--mlflow-port", str(mlflow), "--dagster-port", str(dagster), "--ray-port", str(ray)]
    ui = subprocess.Popen(
        [sys.executable, "ray_jobs/ui.py", "--outputs", str(tmp_path), *ports],
        cwd=ROOT,
        env=job_environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        assert ui.stdout is not None
        printed = ""
        for line in ui.stdout:
            printed += line
            if "Ctrl-C" in line:
                break
        for name, port in (("MLflow", mlflow), ("Dagster", dagster), ("Ray", ray)):
            assert f"http://127.0.0.1:{port}" in printed, printed
            with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=10) as page:
                assert page.status == 200, name
        started = psutil.Process(ui.pid).children(recursive=True)
        assert len(started) >= 3
    finally:
        os.kill(ui.pid, signal.SIGTERM)
        ui.wait(timeout=60)
    deadline = time.monotonic() + 20
    while [process for process in started if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < deadline, started
        time.sleep(0.5)


def test_a_taken_port_is_named_with_the_option_that_changes_it(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        failed = run_job("ray_jobs/ui.py", "--outputs", str(tmp_path), "--mlflow-port", str(port))
    assert failed.returncode == 2
    assert f"port {port} of the MLflow UI is taken" in failed.stderr
    assert "--mlflow-port" in failed.stderr
