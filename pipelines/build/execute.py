"""Job execution in this process or through Ray Data, as tasks or in actors.

On Ray one row is one job and one task: an index flows one way, and whether it went well the other. Images, tables and
manifests pass on disk alone, so that the object store stays empty.
"""

import logging
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from pipelines.build.job import Job
from pipelines.build.publish import publish
from pipelines.build.ray_cluster import connect
from pipelines.storage import Location

# Times that a task whose worker died (out of memory, a lost machine) is tried again; Ray Data's default is for ever. What a
# image can kill is a process of its own: see pipelines.fetch.decoder.
MAX_RETRIES = 2
# An actor begins as a new process, which takes as long as some small shards do.
MIN_JOBS_PER_ACTOR = 6


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

    ``in_actors`` runs them in actors, one a core, where what a job has loaded (a model, say) is there for those that follow;
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
    ):  # max_retries has no other way in Ray 2.60, and 2.64 is announced to remove this one
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
