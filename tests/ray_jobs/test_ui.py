"""`make ui`: servers on loopback that end together."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from ray_jobs.ui import UiConfig, services
from tests.ray_jobs.conftest import ROOT, job_environment, listening_elsewhere, run_job

pytestmark = [pytest.mark.integration, pytest.mark.timeout(200)]


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def status(port: int, **headers: str) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as page:
            return int(page.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_serves_its_pages_to_this_machine_alone_and_ends_what_it_started(tmp_path: Path) -> None:
    mlflow, dagster, ray = free_ports(3)
    ports = ["--mlflow-port", str(mlflow), "--dagster-port", str(dagster), "--ray", "--ray-port", str(ray)]
    environment = {key: value for key, value in job_environment().items() if not key.startswith("RAY_AUTH_")}
    ui = subprocess.Popen(
        [sys.executable, "ray_jobs/ui.py", "--outputs", str(tmp_path), *ports],
        cwd=ROOT,
        env=environment,
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
            assert status(port) == 200, name
        started = psutil.Process(ui.pid).children(recursive=True)
        assert len(started) >= 3
        assert listening_elsewhere(started) == []
        for port in (mlflow, dagster):
            assert status(port, Host="pages.test") in (400, 403)
        assert status(dagster, Origin="http://pages.test") == 403
        assert status(dagster, Origin=f"http://localhost:{dagster}") == 200
        token = re.search(r"RAY_AUTH_TOKEN=(\w{64})", printed)
        assert token, printed
        jobs = f"http://127.0.0.1:{ray}/api/jobs/"
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(jobs, timeout=10)
        assert refused.value.code in (401, 403)
        with urllib.request.urlopen(
            urllib.request.Request(jobs, headers={"Authorization": f"Bearer {token[1]}"}), timeout=10
        ) as page:
            assert page.read() == b"[]"
    finally:
        os.kill(ui.pid, signal.SIGTERM)
        ui.wait(timeout=60)
    deadline = time.monotonic() + 20
    while [process for process in started if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < deadline, started
        time.sleep(0.5)


def test_there_is_no_ray_head_unless_one_is_asked_for() -> None:
    assert list(services(UiConfig())) == ["MLflow", "Dagster"]


def test_a_taken_port_is_named_with_the_option_that_changes_it(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        failed = run_job("ray_jobs/ui.py", "--outputs", str(tmp_path), "--mlflow-port", str(port))
    assert failed.returncode == 2
    assert f"port {port} of the MLflow UI is taken" in failed.stderr
    assert "--mlflow-port" in failed.stderr
