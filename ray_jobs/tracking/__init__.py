"""MLflow tracking: runs, curves and model versions. The only package that imports MLflow."""

from ray_jobs.tracking.registry import CANDIDATE, CHAMPION, Registry, Version
from ray_jobs.tracking.run_logger import RunLogger
from ray_jobs.tracking.tracker import Tracker, check_tracking, runs_page, tracking_uri

__all__ = [
    "CANDIDATE",
    "CHAMPION",
    "Registry",
    "RunLogger",
    "Tracker",
    "Version",
    "check_tracking",
    "runs_page",
    "tracking_uri",
]
