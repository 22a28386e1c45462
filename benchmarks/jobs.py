"""Jobs that a benchmark runs as processes of their own, as a person would."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def job_process(**environment: str) -> dict[str, Any]:
    """Arguments of `subprocess.run`: the repository's root, one thread, nothing of a cluster or a tracker of the caller.

    Args:
        environment: variables to set.
    """
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return {"cwd": ROOT, "env": inherited | own | environment}


def build_tiny(root: Path) -> None:
    """Build the emoji scenes at scale tiny."""
    command = [sys.executable, "ray_jobs/build_dataset.py", "--scale", "tiny", "--root", str(root)]
    subprocess.run(command, **job_process(), check=True, stdout=subprocess.DEVNULL)
