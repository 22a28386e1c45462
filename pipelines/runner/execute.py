"""Executes jobs in this process or through Ray Data.

On Ray one row is one job and one task: an index flows one way and a manifest comes back. Pictures and tables pass between
jobs on disk alone, so that the object store stays empty.
"""

import logging
import os
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.storage import Job, PublishedTable, publish, table_folder
from schemas.manifest import Manifest

REPOSITORY = Path(__file__).resolve().parents[2]
# Times that a task whose worker died (out of memory, a crash in a decoder) is tried again; Ray Data's default is for ever.
MAX_RETRIES = 2
# Rows are an index or a manifest, so the object store needs next to nothing; Ray would set aside 30 % of the memory.
OBJECT_STORE_BYTES = 256 * 2**20


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """``table`` or, where the job failed, ``error`` (one line) and, where it was no user error, ``details`` (a traceback)."""

    job: Job
    table: PublishedTable | None = None
    error: str | None = None
    details: str = ""


def run_here(jobs: Sequence[Job], *, root: Path) -> Iterator[JobResult]:
    """Run jobs one after the other in this process, yielding each result as it comes."""
    for index, job in enumerate(jobs):
        yield _result(job, _run(jobs, root, {"index": index}), root)


def run_on_ray(jobs: Sequence[Job], *, root: Path) -> Iterator[JobResult]:
    """Run jobs as Ray Data tasks, yielding each result as it comes; a job whose worker keeps dying is an error too."""
    import ray

    connect()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # a lost worker costs its own job, not the others
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    rows = ray.data.from_items([{"index": index} for index in range(len(jobs))], override_num_blocks=len(jobs))
    waiting = set(range(len(jobs)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # max_retries has no other door in 2.60, and this one is announced to close in 2.64
        answers = rows.map(partial(_run, jobs, root), num_cpus=1, max_retries=MAX_RETRIES)
    for row in answers.iter_rows():
        waiting.remove(row["index"])
        yield _result(jobs[row["index"]], row, root)
    for index in sorted(waiting):
        yield JobResult(job=jobs[index], error=f"its worker process died {MAX_RETRIES + 1} times (out of memory, or a crash)")


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names (a submitted job has it), else start one on this machine, once."""
    import ray

    if ray.is_initialized():
        return
    if "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
        return
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import_path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
        object_store_memory=OBJECT_STORE_BYTES,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", "PYTHONPATH": import_path}},
    )


def _run(jobs: Sequence[Job], root: Path, row: dict[str, Any]) -> dict[str, Any]:
    """Publish one job's table; errors travel back as text, since one shard's failure must not end the others."""
    answer: dict[str, Any] = {"index": row["index"], "manifest": "", "error": "", "details": ""}
    try:
        answer["manifest"] = publish(jobs[row["index"]], root=root).manifest.model_dump_json()
    except ValueError as error:
        answer["error"] = str(error)
    except Exception as error:
        answer["error"] = f"{type(error).__name__}: {error}"
        answer["details"] = traceback.format_exc()
    return answer


def _result(job: Job, answer: dict[str, Any], root: Path) -> JobResult:
    if answer["error"]:
        return JobResult(job=job, error=answer["error"], details=answer["details"])
    folder = table_folder(root, job.stage, job.fingerprint)
    return JobResult(job=job, table=PublishedTable(folder=folder, manifest=Manifest.model_validate_json(answer["manifest"])))
