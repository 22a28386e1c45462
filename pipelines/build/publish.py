"""Publishing of tables: a table appears whole, or not at all.

On a local root the folder that a job wrote is renamed. An object store knows no renaming: the files are uploaded to their final
names and the manifest after them, so that an upload that was cut off leaves files which no manifest names; the next build
replaces them.
"""

import errno
import json
import os
import shutil
import uuid
from pathlib import Path

from upath import UPath

from pipelines.build.job import Job
from pipelines.storage.file_cache import scratch_folder
from pipelines.storage.locks import Lease
from pipelines.storage.roots import SPOOL, TEMPORARY, Location, sha256_file
from pipelines.storage.table_store import (
    TAGS_NAME,
    PublishedTable,
    listing,
    read_table,
    remove_table,
    table_name,
    verify,
)
from schemas.manifest import MANIFEST_NAME, FileEntry, Manifest


def publish(job: Job, *, root: Location, lease: str) -> PublishedTable:
    """Run a job and publish its table.

    ``lease`` is what `locked` gave to the build that wants the table. A worker may outlive a killed build for some seconds, in
    which what the job needs (a web server, say) is already gone: what it makes then must not be published.

    Raises:
        ValueError: a file cannot be written (a full disk, say); nothing is published then.
        RuntimeError: the build has ended.
    """
    final = root / table_name(job.stage, job.fingerprint)
    parent = final.parent if isinstance(final, Path) else scratch_folder()
    temporary = parent / f"{TEMPORARY}{final.name}-{uuid.uuid4().hex[:8]}"
    spool = parent / f"{SPOOL}{final.name}"
    try:
        temporary.mkdir(parents=True)
        manifest = _work(job, temporary, spool)
        held = Lease(root, job.stage, shard=job.shard, token=lease)
        held.check()
        published = read_table(root, job.stage, job.fingerprint)
        if published is not None and verify(published) is None:
            shutil.rmtree(spool, ignore_errors=True)
            return published  # another build of the same data was first
        if isinstance(final, Path):
            if final.exists():
                final.rename(temporary.with_name(f"{temporary.name}-damaged"))  # the next build sweeps it
            temporary.rename(final)
        else:
            _upload(temporary, final, manifest)
            held.wait_for_heartbeat()
            final.fs.put_file(str(temporary / MANIFEST_NAME), (final / MANIFEST_NAME).path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        path = Path(error.filename or max(_files(temporary), key=lambda file: file.stat().st_mtime, default=temporary))
        reason = error.strerror or os.strerror(error.errno)
        raise ValueError(f"{job.stage} {job.shard}: cannot write {path.name} in {final.parent}: {reason}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(spool, ignore_errors=True)
    return PublishedTable(folder=final, manifest=manifest)


def _work(job: Job, folder: Path, spool: Path) -> Manifest:
    """Do the work; the folder then holds all that is to be published."""
    written = job.work(folder, spool=spool) if job.is_resumed else job.work(folder)
    manifest = Manifest(
        stage=job.stage,
        stage_version=job.version,
        shard=job.shard,
        fingerprint=job.fingerprint,
        config=job.config,
        parents=job.parents,
        rows_in=written.rows_in,
        rows_kept=written.rows_kept,
        dropped=dict(sorted(written.dropped.items())),
        files=[
            FileEntry(
                path=(name := path.relative_to(folder).as_posix()),
                sha256=sha256_file(path),
                num_bytes=path.stat().st_size,
                num_rows=written.num_rows.get(name, 1),
            )
            for path in _files(folder)
        ],
    )
    (folder / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2) + "\n")
    return manifest


def _upload(folder: Path, final: UPath, manifest: Manifest) -> None:
    """Put all files but the manifest in place, with the tags that the store gave them."""
    remove_table(final)  # what an interrupted upload left, or a damaged table
    names = [entry.path for entry in manifest.files]
    final.fs.put([str(folder / name) for name in names], [(final / name).path for name in names])
    found = listing(final)
    for entry in manifest.files:
        if entry.path not in found or found[entry.path].num_bytes != entry.num_bytes:
            raise RuntimeError(f"{final / entry.path} did not arrive whole: run the same command again")
    tags = {name: found[name].tag for name in names if found[name].tag is not None}
    (final / TAGS_NAME).write_text(json.dumps(tags, indent=2, sort_keys=True) + "\n")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if not path.is_dir())
