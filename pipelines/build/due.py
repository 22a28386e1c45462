"""Due jobs, and why: what a person wants to know before a run that takes hours."""

import json
from collections import Counter

from pipelines.build.job import Job
from pipelines.build.pair_jobs import RETRIED, RETRIES
from pipelines.storage import Location, PublishedTable, read_table, verify
from schemas.manifest import Manifest

NEW = "new"


def reason_to_run(job: Job, *, root: Location, last_fingerprint: str | None) -> str | None:
    """Why a job is due, or None where its table is published and verified.

    Args:
        job: what is wanted.
        root: the data root.
        last_fingerprint: of the table that this dataset had for the same shard, to compare with.
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
    counts = Counter(reasons)
    if set(counts) == {NEW}:
        return f"{counts[NEW]} {NEW}"
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(
        f"{count} {reason}" for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )


def _difference(last: PublishedTable, job: Job) -> str:
    manifest = last.manifest
    if manifest.stage_version != job.version:
        return f"stage version {manifest.stage_version} -> {job.version}"
    if manifest.config.get("schema") != job.config.get("schema"):
        return f"schema {manifest.config.get('schema', 'without a version')} -> {job.config.get('schema')}"
    if manifest.config.get(RETRIES) != job.config.get(RETRIES) and RETRIES in job.config:
        return f"retry {job.config[RETRIES]} of {', '.join(job.config[RETRIED])}"
    if manifest.config != job.config:
        return "config changed: " + _changed_keys(manifest.config, job.config)
    return _changed_parents(manifest, job)


def _changed_keys(before: dict[str, object], after: dict[str, object]) -> str:
    keys = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
    return ", ".join(f"{key} {_short(before.get(key))} -> {_short(after.get(key))}" for key in keys)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else f"{text[:21]}..."


def _changed_parents(manifest: Manifest, job: Job) -> str:
    """Names the parent assets with the number of their files that are new, changed or gone."""
    before, after = manifest.parents, job.parents
    words = []
    for asset in sorted({name.split("/")[0] for name in before.keys() | after.keys()}):
        names = {name for name in before.keys() | after.keys() if name.split("/")[0] == asset}
        new = sum(name not in before for name in names)
        gone = sum(name not in after for name in names)
        changed = sum(name in before and name in after and before[name] != after[name] for name in names)
        counts = [f"{count} {word}" for count, word in ((changed, "changed"), (new, "new"), (gone, "gone")) if count]
        if counts:
            words.append(f"{asset} {', '.join(counts)}")
    return "parent changed: " + "; ".join(words)
