"""Executes jobs in this process or through Ray Data, as tasks or in actors.

On Ray one row is one job and one task: an index flows one way, and whether it went well the other. Pictures, tables and
manifests pass on disk alone, so that the object store stays empty.
"""

import logging
import os
import secrets
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.storage import Job, Location, publish

REPOSITORY = Path(__file__).resolve().parents[2]
# Times that a task whose worker died (out of memory, a lost machine) is tried again; Ray Data's default is for ever. What a
# picture can kill is a process of its own: see pipelines.stages.decoder.
MAX_RETRIES = 2
# An actor begins as a new process, which takes as long as some small shards do.
MIN_JOBS_PER_ACTOR = 6
# Rows are an index and a word, so the object store needs next to nothing; Ray would set aside 30 % of the memory.
OBJECT_STORE_BYTES = 256 * 2**20


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """``error`` is empty, or one line on why no table was published; ``details`` is its traceback unless a user is at fault."""

    job: Job
    error: str
    details: str = ""


def run_here(jobs: Sequence[Job], *, root: Location, lease: str) -> Iterator[JobResult]:
    """Run jobs one after the other in this process, yielding each result as it comes."""
    for job in jobs:
        yield JobResult(job=job, **_run(job, root, lease))


def run_on_ray(jobs: Sequence[Job], *, root: Location, lease: str, in_actors: bool = False) -> Iterator[JobResult]:
    """Run jobs through Ray Data, yielding each result as it comes; a job whose worker keeps dying is an error too.

    Args:
        jobs: what to run.
        root: the data root.
        lease: see `pipelines.storage.publish`.
        in_actors: run them in actors, one a core, where what a job has loaded (a model, say) is there for those that follow;
            a few jobs run as tasks nevertheless, in processes that are there already.
    """
    import ray

    connect()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # a lost worker costs its own job, not the others
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    rows = ray.data.from_items([{"index": index} for index in range(len(jobs))], override_num_blocks=len(jobs))
    with (
        warnings.catch_warnings()
    ):  # max_retries has no other door in Ray 2.60, and 2.64 is announced to close this one
        warnings.simplefilter("ignore")
        num_actors = int(ray.cluster_resources().get("CPU", 1))
        if in_actors and len(jobs) >= MIN_JOBS_PER_ACTOR * num_actors:
            pool = ray.data.ActorPoolStrategy(min_size=1, max_size=num_actors, initial_size=num_actors)
            options: dict[str, Any] = {"max_restarts": MAX_RETRIES, "max_task_retries": MAX_RETRIES, "num_cpus": 1}
            actor: Any = _Actor  # Ray's annotations know functions alone
            answers = rows.map(actor, fn_constructor_args=(jobs, root, lease), compute=pool, **options)
        else:
            answers = rows.map(partial(_run_row, jobs, root, lease), num_cpus=1, max_retries=MAX_RETRIES)
    waiting = set(range(len(jobs)))
    with closing(_LostTasks()) as lost:
        for answer in answers.iter_rows():
            index = answer.pop("index")
            waiting.remove(index)
            yield JobResult(job=jobs[index], **answer)
    for index in sorted(waiting):
        yield JobResult(job=jobs[index], error=f"its task was lost: {lost.cause}")


class _LostTasks(logging.Handler):
    """Ray Data tells why it gave up a task in its log alone; this keeps the last such reason."""

    _logger = logging.getLogger("ray.data._internal.execution.streaming_executor_state")

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.cause = "no reason was given"
        self._logger.setLevel(logging.ERROR)
        self._logger.propagate = False
        self._logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            self.cause = f"{type(error).__name__}: {error}"

    def close(self) -> None:
        self._logger.removeHandler(self)
        super().close()


def connect() -> str | None:
    """Join the cluster that RAY_ADDRESS names (a submitted job has it), else start one on this machine, once.

    Returns:
        Address of its dashboard, where this call has joined a cluster that has one.
    """
    import ray

    if ray.is_initialized():
        return None
    if "RAY_ADDRESS" in os.environ:
        return ray.init(log_to_driver=False, logging_level=logging.WARNING).dashboard_url or None
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    # A token of its own: Ray would leave one in ~/.ray, and every later `ray start` would then ask each `ray job submit` for it.
    if not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Nobody reads this cluster's metrics, and nobody takes away one machine of one: that saves processes and a barrier.
    os.environ.setdefault("RAY_enable_metrics_collection", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    if hasattr(os, "SCHED_BATCH"):
        # Ray's processes wake a thousand times a second. What they inherit here lets none interrupt another in its work.
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    import_path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
        object_store_memory=OBJECT_STORE_BYTES,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", "PYTHONPATH": import_path}},
    )
    return None


def _run_row(jobs: Sequence[Job], root: Location, lease: str, row: dict[str, int]) -> dict[str, Any]:
    return {**row, **_run(jobs[row["index"]], root, lease)}


class _Actor:
    """Runs one job after the other in a process of its own."""

    def __init__(self, jobs: Sequence[Job], root: Location, lease: str) -> None:
        self._jobs, self._root, self._lease = jobs, root, lease

    def __call__(self, row: dict[str, int]) -> dict[str, Any]:
        return _run_row(self._jobs, self._root, self._lease, row)


def _run(job: Job, root: Location, lease: str) -> dict[str, str]:
    """Publish one job's table; an error comes back as text, since one shard's failure must not end the others."""
    try:
        publish(job, root=root, lease=lease)
    except ValueError as error:
        return {"error": str(error), "details": ""}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "details": traceback.format_exc()}
    return {"error": "", "details": ""}
