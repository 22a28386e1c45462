"""The cluster that a build or a training starts: who can reach it."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.ray_jobs.conftest import listening_elsewhere

ROOT = Path(__file__).parents[3]

# Tasks make it start workers.
SCRIPT = """
import os
from {module} import connect
import ray

connect()
ray.get([ray.remote(lambda: os.getpid()).remote() for _ in range(4)])
print(ray._private.authentication.authentication_utils.is_token_auth_enabled(), len(os.environ["RAY_AUTH_TOKEN"]), flush=True)
input()
"""


@pytest.mark.integration
@pytest.mark.timeout(120)
@pytest.mark.parametrize("module", ["pipelines.build.ray_cluster", "ray_jobs.pretrain"])
def test_it_listens_on_loopback_alone_and_has_a_token_of_its_own(module: str) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(module=module)],
        cwd=ROOT,
        env=environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline().split() == ["True", "64"]
        processes = [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]
        assert len(processes) >= 5, "the driver, a GCS, a raylet, its agents and workers"
        assert listening_elsewhere(processes) == []
        driver.communicate("\n")
    assert driver.returncode == 0
