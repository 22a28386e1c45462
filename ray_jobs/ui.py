"""Dashboards of MLflow, Dagster and, on request, a Ray head, on loopback; Ctrl-C ends them all."""

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
from pipelines.build.ray_cluster import keep_private
from pipelines.storage import DataRoot, data_root
from ray_jobs.command_line import run_cli
from ray_jobs.tracking import runs_page
from ray_jobs.writable import check_folder

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
    ray: bool = False
    """Whether to start a Ray head, to which `ray job submit` sends jobs; its address and token are printed."""
    ray_port: int = 8265
    """Port of the Ray dashboard."""


def services(config: UiConfig) -> dict[str, tuple[int, list[str]]]:
    """Port and command, after ``bin/``, of the servers by their names."""
    outputs = config.outputs.resolve()
    mlflow = [
        *("mlflow", "server", "--host", "127.0.0.1", "--port", str(config.mlflow_port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{outputs / 'mlflow.db'}"),
        *("--default-artifact-root", (outputs / "mlartifacts").as_uri()),
    ]
    dagster = [
        *("python", "-m", "ray_jobs.dagster_server", "-m", "pipelines.build.dagster_assets"),
        *("-h", "127.0.0.1", "-p", str(config.dagster_port)),
    ]
    ray = [
        *("ray", "start", "--head", "--block", "--disable-usage-stats", "--node-ip-address", "127.0.0.1"),
        *("--dashboard-host", "127.0.0.1", "--dashboard-port", str(config.ray_port), "--include-dashboard", "true"),
    ]
    wanted = {"MLflow": (config.mlflow_port, mlflow), "Dagster": (config.dagster_port, dagster)}
    return wanted | ({"Ray": (config.ray_port, ray)} if config.ray else {})


def main(config: UiConfig) -> None:
    """Start all, print their addresses, wait for Ctrl-C, end what was started."""
    check_folder(config.outputs, option="outputs")
    wanted = services(config)
    ports = [port for port, _ in wanted.values()]
    for name, (port, _) in wanted.items():
        option = f"--{name.lower()}-port"
        if not 1 <= port <= 65535:
            raise ValueError(f"{option} {port}: from 1 to 65535")
        if ports.count(port) > 1:
            raise ValueError(f"{option} {port}: another UI has this port, too; give each its own")
        _check_free(name, port)
    log_folder = config.outputs / "ui_logs"
    log_folder.mkdir(exist_ok=True)
    environment = os.environ | {
        "DAGSTER_HOME": str(dagster_home(data_root(config.data))),
        "DAGSTER_TELEMETRY_DISABLED": "1",
    }
    keep_private(environment)
    root, bin_folder = Path(__file__).resolve().parent.parent, Path(sys.executable).parent
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, (_, (program, *options)) in wanted.items():
            with (log_folder / f"{name.lower()}.log").open("wb") as log:
                running[name] = subprocess.Popen(
                    [str(bin_folder / program), *options],
                    cwd=root,
                    env=environment,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        for name, process in running.items():
            address = f"http://127.0.0.1:{wanted[name][0]}"
            if not _comes_up(address, process):
                raise ValueError(f"the {name} UI did not come up; see {log_folder / name.lower()}.log")
            print(f"{name:8} {runs_page(address) if name == 'MLflow' else address}", flush=True)
        if config.ray:
            print(f"{'':8} for `ray job submit`, and for the dashboard when it asks for a token:", flush=True)
            token = {key: value for key, value in environment.items() if key.startswith("RAY_AUTH_")}
            exports = {"RAY_ADDRESS": f"http://127.0.0.1:{config.ray_port}", **token}
            print(f"{'':8} export {' '.join(f'{key}={value}' for key, value in exports.items())}", flush=True)
        print("Ctrl-C ends them", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        print("ending them", flush=True)
    finally:
        for process in running.values():
            _end(process)


def _check_free(name: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            option = f"--{name.lower()}-port"
            raise ValueError(f"port {port} of the {name} UI is taken: {error}; choose another with {option}") from error


def _comes_up(address: str, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + STARTUP_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=2):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            time.sleep(0.5)
    return False


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
