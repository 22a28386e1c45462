"""The cluster that a build or a training starts: who can reach it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

# Ray is imported first, as the training does, and tasks and an actor make it start workers.
SCRIPT = """
import ray
import os, psutil
from pipelines.build.ray_cluster import connect
from tests.ray_jobs.conftest import listening_elsewhere

connect()
ray.get([ray.remote(lambda: os.getpid()).remote() for _ in range(4)])
processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
print(len(processes), listening_elsewhere(processes), os.environ["RAY_AUTH_MODE"], len(os.environ["RAY_AUTH_TOKEN"]))
"""


@pytest.mark.integration
@pytest.mark.timeout(120)
def test_it_listens_on_loopback_alone_and_has_a_token_of_its_own() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env=environment, text=True, capture_output=True, check=True
    )
    num_processes, elsewhere, mode, token_length = done.stdout.split()
    assert int(num_processes) >= 5, "a GCS, a raylet, its agents and workers"
    assert (elsewhere, mode, token_length) == ("[]", "token", "64")
