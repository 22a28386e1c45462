"""MLflow, and nothing else that we have, knows of runs, curves and model versions: the only package that imports it."""

from ray_jobs.tracking.books import Books
from ray_jobs.tracking.registry import CANDIDATE, CHAMPION, Registry, Version
from ray_jobs.tracking.run import Tracker, tracking_uri

__all__ = ["CANDIDATE", "CHAMPION", "Books", "Registry", "Tracker", "Version", "tracking_uri"]
