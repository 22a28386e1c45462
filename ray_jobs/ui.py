"""Dashboards of MLflow, Dagster and Ray on loopback; Ctrl-C ends all three."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from pipelines.build.dagster_assets import dagster_home
from pipelines.storage import DataRoot, data_root
from ray_jobs.cli import run_cli
from ray_jobs.tracking import runs_page

STARTUP_S = 90.0


@dataclass(frozen=True, kw_only=True)
class UiConfig:
    """Serve the dashboards on 127.0.0.1."""

    outputs: Path = Path("outputs")
    """Folder of the MLflow database."""
    data: DataRoot = Path("outputs/data")
    """The data root whose builds the Dagster UI shows."""
    mlflow_port: int = 5000
    """Port of MLflow's UI."""
    dagster_port: int = 3000
    """Port of the Dagster UI."""
    ray_port: int = 8265
    """Port of the Ray dashboard."""


@dataclass(frozen=True, kw_only=True)
class _Service:
    name: str
    port: int
    command: list[str]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def services(config: UiConfig) -> list[_Service]:
    """The three servers and how each is started."""
    bin_folder = Path(sys.executable).parent
    outputs = config.outputs.resolve()
    return [
        _Service(
            name="MLflow",
            port=config.mlflow_port,
            command=[
                *(str(bin_folder / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(config.mlflow_port)),
                *("--workers", "1", "--backend-store-uri", f"sqlite:///{outputs / 'mlflow.db'}"),
                *("--default-artifact-root", (outputs / "mlartifacts").as_uri()),
            ],
        ),
        _Service(
            name="Dagster",
            port=config.dagster_port,
            command=[
                *(str(bin_folder / "dagster"), "dev", "-m", "pipelines.build.dagster_assets"),
                *("-h", "127.0.0.1", "-p", str(config.dagster_port)),
            ],
        ),
        _Service(
            name="Ray",
            port=config.ray_port,
            command=[
                *(str(bin_folder / "ray"), "start", "--head", "--block", "--disable-usage-stats"),
                *("--node-ip-address", "127.0.0.1", "--dashboard-host", "127.0.0.1"),
                *("--dashboard-port", str(config.ray_port), "--include-dashboard", "true"),
            ],
        ),
    ]


def main(config: UiConfig) -> None:
    """Start all, print their addresses, wait for Ctrl-C, end what was started."""
    config.outputs.mkdir(parents=True, exist_ok=True)
    wanted = services(config)
    for service in wanted:
        _check_free(service)
    root = Path(__file__).resolve().parent.parent
    home = dagster_home(data_root(config.data))
    log_folder = config.outputs / "ui_logs"
    log_folder.mkdir(exist_ok=True)
    environment = os.environ | {
        "DAGSTER_HOME": str(home),
        "DAGSTER_TELEMETRY_DISABLED": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, so that nothing started here outlives it
    running: list[tuple[_Service, subprocess.Popen[bytes]]] = []
    try:
        for service in wanted:
            with (log_folder / f"{service.name.lower()}.log").open("wb") as log:
                process = subprocess.Popen(
                    service.command, cwd=root, env=environment, stdout=log, stderr=log, start_new_session=True
                )
            running.append((service, process))
        for service, process in running:
            _wait(service, process, log_folder)
            page = runs_page(service.address) if service.name == "MLflow" else service.address
            print(f"{service.name:8} {page}", flush=True)
        print("Ctrl-C ends all three", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        print("ending all three", flush=True)
    finally:
        for _, process in running:
            _end(process)


def _check_free(service: _Service) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", service.port))
        except OSError as error:
            option = f"--{service.name.lower()}-port"
            raise ValueError(
                f"port {service.port} of the {service.name} UI is taken: {error}; choose another with {option}"
            ) from error


def _wait(service: _Service, process: subprocess.Popen[bytes], log_folder: Path) -> None:
    deadline = time.monotonic() + STARTUP_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(service.address, timeout=2):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.5)
    raise ValueError(f"the {service.name} UI did not come up; see {log_folder / service.name.lower()}.log")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server with all its children: each was started as the leader of a session of its own."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    run_cli(UiConfig, main)
