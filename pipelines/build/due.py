"""Due jobs, and why: what a person wants to know before a run that takes hours."""

import json
from collections import Counter
from collections.abc import Mapping

from pipelines.build.job import Job
from pipelines.build.pair_jobs import RETRIED, RETRIES
from pipelines.storage import Location, PublishedTable, read_table, verify

NEW = "new"


def reason_to_run(job: Job, *, root: Location, last_fingerprint: str | None) -> str | None:
    """Why a job is due, or None where its table is published and verified.

    ``last_fingerprint`` is of the table that this dataset had for the same shard, to compare with.
    """
    table = read_table(root, job.stage, job.fingerprint)
    if table is not None:
        return verify(table)
    if last_fingerprint is None:
        return NEW
    last = read_table(root, job.stage, last_fingerprint)
    if last is None or last_fingerprint == job.fingerprint:
        return "unfinished or gone"
    return _difference(last, job)


def summarize_reasons(reasons: list[str]) -> str:
    """``8 new``, or the reason alone where all share it, else each with its count."""
    counts = sorted(Counter(reasons).items(), key=lambda item: (-item[1], item[0]))
    if len(counts) == 1 and counts[0][0] != NEW:
        return counts[0][0]
    return "; ".join(f"{count} {reason}" for reason, count in counts)


def _difference(last: PublishedTable, job: Job) -> str:
    manifest = last.manifest
    if manifest.stage_version != job.version:
        return f"stage version {manifest.stage_version} -> {job.version}"
    if manifest.config.get("schema") != job.config.get("schema"):
        return f"schema {manifest.config.get('schema', 'without a version')} -> {job.config.get('schema')}"
    if manifest.config.get(RETRIES) != job.config.get(RETRIES) and RETRIES in job.config:
        return f"retry {job.config[RETRIES]} of {', '.join(job.config[RETRIED])}"
    before, after = manifest.config, job.config
    if before != after:
        keys = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
        changes = (f"{key} {_short(before.get(key))} -> {_short(after.get(key))}" for key in keys)
        return f"config changed: {', '.join(changes)}"
    return _changed_parents(manifest.parents, job.parents)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else f"{text[:21]}..."


def _changed_parents(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Names the parent assets with the number of their files that are changed, new or gone."""
    counts: dict[str, Counter[str]] = {}
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            word = "new" if name not in before else "gone" if name not in after else "changed"
            counts.setdefault(name.split("/")[0], Counter())[word] += 1
    words = [
        f"{asset} " + ", ".join(f"{count[word]} {word}" for word in ("changed", "new", "gone") if count[word])
        for asset, count in sorted(counts.items())
    ]
    return "parent changed: " + "; ".join(words)
