"""A tiny dataset and the jobs' own processes, shared by the integration tests."""

import contextlib
import ipaddress
import os
import secrets
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.detclipv2.conftest import text_folder, tiny_config, tiny_detector
from tests.pipelines.conftest import bucket, cache_folder, s3_environment

__all__ = ["bucket", "cache_folder", "s3_environment", "text_folder", "tiny_config", "tiny_detector"]

ROOT = Path(__file__).parents[2]
TINY_OPTIONS = (
    *("--train.num-steps", "12", "--train.log-every", "2", "--train.checkpoint-every", "3"),
    *("--train.image-text-after", "3"),
    *(
        "--train.detection.image-size",
        "64",
        "--train.grounding.image-size",
        "64",
        "--train.image-text.image-size",
        "64",
    ),
    *("--train.detection.batch-size", "2", "--train.grounding.batch-size", "2", "--train.image-text.batch-size", "2"),
)


TOKEN = secrets.token_hex(32)


def job_environment() -> dict[str, str]:
    """The environment of a person's shell, with one thread a process."""
    # MLflow writes its tracking URI into the environment of whoever sets it, such as another test.
    return {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))} | {
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "0.5",  # they are over before five seconds
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # trainings of seconds do not wait for two
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def run_job(*command: str, cwd: Path = ROOT, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
    """Run a script of ray_jobs as a person would, from the repository's root or another folder."""
    first, *options = command
    return subprocess.run(
        [sys.executable, str(ROOT / first) if first.endswith(".py") else first, *options],
        cwd=cwd,
        env=job_environment(),
        text=True,
        capture_output=True,
        timeout=timeout_s,
    )


def listening_elsewhere(processes: Iterable[psutil.Process]) -> list[str]:
    """Sockets of these processes that listen on an address other than loopback."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            for socket in process.net_connections(kind="inet"):
                address = ipaddress.ip_address(socket.laddr.ip) if socket.laddr else None
                inner = getattr(address, "ipv4_mapped", None) or address
                if socket.status == psutil.CONN_LISTEN and not (inner and inner.is_loopback):
                    found.append(f"{process.name()} {socket.laddr}")
    return found


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Digests of files that tests wrote are nothing for the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETCLIPV2_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of the emoji scenes at scale tiny, built once."""
    root = tmp_path_factory.mktemp("data")
    built = run_job("ray_jobs/build_dataset.py", "--scale", "tiny", "--root", str(root))
    assert built.returncode == 0, built.stdout + built.stderr
    return root / "datasets" / "tiny" / "MANIFEST.json"
