"""Retries of failed downloads. ``<root>/retries.json`` remembers them for every later build of every dataset.

A retry gives a new table, made of the one before and of what its failed rows gave now. Each entry names the
tables before by content, so that the identity of the last one is known even where `gc` has removed those.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, NonNegativeInt, TypeAdapter, ValidationError

from pipelines.build.job import Job
from pipelines.build.pair_jobs import retry_job, rows_by_reason
from pipelines.fetch.download import Download
from pipelines.fetch.drop_reasons import RETRY_CLASSES
from pipelines.storage import (
    DROPPED,
    Location,
    TableFile,
    locked,
    read_table,
    table_name,
    write_text_atomically,
)
from schemas.manifest import Sha256, first_error
from schemas.paths import is_regular

RETRIES_NAME = "retries.json"
_FileName = Literal["kept.parquet", "dropped.parquet", "images.tar"]
_FILES: tuple[_FileName, ...] = get_args(_FileName)


class Attempt(BaseModel):
    """One retry of one table: which reasons, how many rows, and the content of the table that it starts from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reasons: list[str]
    num_rows: NonNegativeInt
    previous: dict[_FileName, Sha256]  # by file name


_RECORD = TypeAdapter(dict[str, list[Attempt]])


def reasons_of(classes: str) -> frozenset[str]:
    """The drop reasons of classes with commas between.

    Raises:
        ValueError: there is no such class.
    """
    names = [name.strip() for name in classes.split(",") if name.strip()]
    unknown = [name for name in names if name not in RETRY_CLASSES]
    if unknown or not names:
        raise ValueError(f"--retry {classes}: name one or more of {', '.join(RETRY_CLASSES)}, with commas between")
    return frozenset[str]().union(*(RETRY_CLASSES[name] for name in names))


@dataclass(frozen=True, kw_only=True)
class Retries:
    """The record of a data root: attempts in their order, by the fingerprint of the download that they repeat."""

    root: Location
    attempts: Mapping[str, Sequence[Attempt]] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Location) -> "Retries":
        """The record of a data root, empty where there is none.

        Raises:
            ValueError: the file is damaged.
        """
        path = root / RETRIES_NAME
        if not path.exists():
            return cls(root=root)
        try:
            if not is_regular(path):
                raise ValueError("it is no regular file")
            return cls(root=root, attempts=_RECORD.validate_json(path.read_bytes()))
        except ValueError as error:
            why = first_error(error) if isinstance(error, ValidationError) else error
            raise ValueError(
                f"{path} is damaged: {why}; bring back a copy, or move it away: builds then go on without what retries gave"
            ) from error

    def latest(self, job: Job, stage: Download) -> Job:
        """The last retry of a download whose table is published or can be made; the download itself where there is none."""
        for later, earlier in pairwise(reversed(self._chain(job, stage))):
            if self.has(later) or self.has(earlier):
                return later
        return job

    def with_retry_of(self, jobs: Iterable[Job], stage: Download, *, reasons: frozenset[str]) -> "Retries":
        """The record with one attempt more for every download that has dropped a row for one of ``reasons``.

        A shard whose last attempt did not come to its end (a killed build) finishes that one first.
        """
        attempts = dict(self.attempts)
        for job in jobs:
            last = self.latest(job, stage)
            table = read_table(self.root, last.stage, last.fingerprint)
            if table is None or not reasons & table.manifest.dropped.keys():
                continue
            counts = rows_by_reason(table.file(DROPPED))
            attempt = Attempt(
                reasons=sorted(reasons & counts.keys()),
                num_rows=sum(counts[reason] for reason in reasons),
                previous={name: table.file(name).sha256 for name in _FILES},
            )
            # Attempts after the last one have lost what they started from.
            num_published = [one.fingerprint for one in self._chain(job, stage)].index(last.fingerprint)
            attempts[job.fingerprint] = [*self.attempts.get(job.fingerprint, ())[:num_published], attempt]
        return Retries(root=self.root, attempts=attempts)

    def has(self, job: Job) -> bool:
        """Whether its table is published."""
        return read_table(self.root, job.stage, job.fingerprint) is not None

    def save(self) -> None:
        """Write the record; see `request_retry`."""
        content = json.dumps(_RECORD.dump_python(dict(self.attempts)), indent=1, sort_keys=True)  # type: ignore[arg-type]
        write_text_atomically(self.root / RETRIES_NAME, content + "\n")

    def _chain(self, job: Job, stage: Download) -> list[Job]:
        """A download and its retries, in their order."""
        chain = [job]
        for attempt in self.attempts.get(job.fingerprint, ()):
            chain.append(_job_of(attempt, chain[-1], stage, root=self.root))
        return chain


def request_retry(root: Location, jobs: Sequence[Job], stage: Download, *, reasons: frozenset[str]) -> Retries:
    """Enter a retry of all downloads that failed for one of ``reasons``: the next build runs it, whoever starts that.

    Raises:
        ValueError: no row failed for any of them.
    """
    with locked(root, "images"):
        before = Retries.read(root)
        after = before.with_retry_of(jobs, stage, reasons=reasons)
        if after == before and all(before.has(before.latest(job, stage)) for job in jobs):
            raise ValueError(f"nothing to retry: no row was dropped for {', '.join(sorted(reasons))}")
        after.save()
    return after


def _job_of(attempt: Attempt, before: Job, stage: Download, *, root: Location) -> Job:
    folder = root / table_name(before.stage, before.fingerprint)
    previous: dict[str, TableFile] = {
        name: TableFile(name=f"{before.stage}/{before.shard}/{name}", path=folder / name, sha256=sha256, num_rows=0)
        for name, sha256 in attempt.previous.items()
    }
    return retry_job(before, stage, previous, reasons=attempt.reasons, num_rows=attempt.num_rows)
