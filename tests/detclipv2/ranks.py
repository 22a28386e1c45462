"""Processes that train together, each a run of a script of the tests."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_ranks(script: Path, folder: Path, *, world_size: int, timeout_s: float = 120) -> None:
    """Run ``script folder rank world_size`` for every rank; all have to end well."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    commands = [
        [sys.executable, str(script), str(folder), str(number), str(world_size)] for number in range(world_size)
    ]
    processes = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for command in commands]
    try:
        errors = [process.communicate(timeout=timeout_s)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * world_size, "\n".join(errors)
