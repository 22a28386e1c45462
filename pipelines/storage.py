"""Tables on disk: ``<root>/<stage>/<fingerprint[:16]>/`` with the manifest as the last file written.

A table is written under a temporary name in the same folder and published by one rename, so that a reader sees all of it or
nothing. Nothing complete is overwritten. Bytes depend on the inputs alone: no time, no absolute path, fixed compression.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.conform import conform
from schemas.manifest import MANIFEST_NAME, FileEntry, Manifest, fingerprint
from schemas.tables import DROP_REASON, with_drop_reason

KEPT = "kept.parquet"
DROPPED = "dropped.parquet"
WHOLE = "all"  # the shard name of a table that holds every shard, each in a folder of its own
_TEMPORARY = ".tmp-"
_LOCK = ".lock"


@dataclass(frozen=True, kw_only=True)
class TableFile:
    """A published file as the input of another job.

    ``name`` is ``<asset>/<shard>/<file>``. A job is keyed by the name and the content of what it reads, not by who made it:
    a parent that ran again and gave the same bytes leaves its children valid.
    """

    name: str
    path: Path
    sha256: str
    num_rows: int


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a job wrote into its folder. Files that ``num_rows`` does not name count as one row (a picture)."""

    rows_in: int
    rows_kept: int
    dropped: dict[str, int] = field(default_factory=dict)
    num_rows: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One table to compute: all that identifies it, and the function that writes it into a folder.

    ``work`` crosses process borders, so it is a picklable function that gets everything else by its closure.
    """

    stage: str
    version: int
    shard: str
    config: dict[str, Any]
    inputs: tuple[TableFile, ...] = ()
    num_rows: int  # rows that it will read: the unit of progress
    work: Callable[[Path], Written]

    @property
    def parents(self) -> dict[str, str]:
        return {file.name: file.sha256 for file in self.inputs}

    @property
    def fingerprint(self) -> str:
        return fingerprint(stage=self.stage, version=self.version, config=self.config, parents=self.parents)


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """A complete table of one shard."""

    folder: Path
    manifest: Manifest

    def file(self, path: str, *, name: str | None = None) -> TableFile:
        """One of its files, as the input of another job.

        Args:
            path: relative to the table's folder.
            name: what children call it; ``<stage>/<shard>/<path>`` unless given.
        """
        entry = next(entry for entry in self.manifest.files if entry.path == path)
        return TableFile(
            name=name or f"{self.manifest.stage}/{self.manifest.shard}/{path}",
            path=self.folder / path,
            sha256=entry.sha256,
            num_rows=entry.num_rows,
        )


def kept_files(tables: Mapping[str, PublishedTable]) -> dict[str, TableFile]:
    """The kept rows of an asset by shard, whether it published a table a shard or one for all."""
    files = {}
    for table in tables.values():
        for entry in table.manifest.files:
            folder, _, name = entry.path.rpartition("/")
            if name == KEPT:
                shard = folder or str(table.manifest.shard)
                files[shard] = table.file(entry.path, name=f"{table.manifest.stage}/{shard}/{KEPT}")
    return dict(sorted(files.items()))


def table_folder(root: Path, stage: str, fingerprint: str) -> Path:
    """Where the table of a fingerprint lies."""
    return root / stage / fingerprint[:16]


def read_table(root: Path, stage: str, fingerprint: str) -> PublishedTable | None:
    """The table of this fingerprint, or None where none was published. Its files are not looked at: see `verify`."""
    folder = table_folder(root, stage, fingerprint)
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST_NAME).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return PublishedTable(folder=folder, manifest=manifest) if manifest.fingerprint == fingerprint else None


def verify(table: PublishedTable) -> str | None:
    """Compare every file with the manifest (presence, size, sha256); say what is wrong, or None."""
    for entry in table.manifest.files:
        path = table.folder / entry.path
        if not path.is_file():
            return f"{entry.path} is missing"
        if path.stat().st_size != entry.num_bytes:
            return f"{entry.path} has {path.stat().st_size} bytes, not {entry.num_bytes}"
        if sha256_file(path) != entry.sha256:
            return f"{entry.path} is corrupt"
    return None


def publish(job: Job, *, root: Path, lease: str) -> PublishedTable:
    """Run a job and publish its table.

    Args:
        job: what to run.
        root: the data root.
        lease: what `locked` gave to the build that wants the table. A worker may outlive a killed build for some seconds, in
            which what the job needs (a web server, say) is already gone: what it makes then must not be published.

    Raises:
        ValueError: a file cannot be written (a full disk, say); nothing is published then.
        RuntimeError: the build has ended.
    """
    final = table_folder(root, job.stage, job.fingerprint)
    temporary = final.parent / f"{_TEMPORARY}{final.name}-{uuid.uuid4().hex[:8]}"
    try:
        temporary.mkdir(parents=True)
        written = job.work(temporary)
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
            files=_file_entries(temporary, written.num_rows),
        )
        (temporary / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2) + "\n")
        if not _is_held(root, job.stage, lease):
            raise RuntimeError(f"{job.stage} {job.shard}: the build that wanted this table has ended")
        if final.exists():
            standing = read_table(root, job.stage, job.fingerprint)
            if standing is not None and verify(standing) is None:
                return standing  # another build of the same data was first
            final.rename(temporary.with_name(f"{temporary.name}-damaged"))  # the next build sweeps it
        temporary.rename(final)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        path = Path(error.filename or _newest_file(temporary))
        reason = error.strerror or os.strerror(error.errno)
        raise ValueError(f"{job.stage} {job.shard}: cannot write {path.name} in {final.parent}: {reason}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return PublishedTable(folder=final, manifest=manifest)


def write_split(table: pa.Table, folder: Path, *, schema: pa.Schema, where: str) -> Written:
    """Write a stage's output as kept.parquet and dropped.parquet.

    Args:
        table: rows with ``schema`` and ``drop_reason``.
        folder: where to.
        schema: the stage's output schema.
        where: stage and shard, for errors.
    """
    kept, dropped = split(table, schema=schema, where=where)
    write_parquet(kept, folder / KEPT)
    write_parquet(dropped, folder / DROPPED)
    return Written(
        rows_in=table.num_rows,
        rows_kept=kept.num_rows,
        dropped=count_reasons(dropped),
        num_rows={KEPT: kept.num_rows, DROPPED: dropped.num_rows},
    )


def split(table: pa.Table, *, schema: pa.Schema, where: str) -> tuple[pa.Table, pa.Table]:
    """(rows without a drop reason, with exactly ``schema``; rows with one, with the reason last)."""
    is_kept = pc.is_null(table.column(DROP_REASON.name))
    kept = conform(table.filter(is_kept), schema, where=where)
    dropped = conform(table.filter(pc.invert(is_kept)), with_drop_reason(schema), where=where)
    return kept, dropped


def count_reasons(dropped: pa.Table) -> dict[str, int]:
    """Rows by drop reason."""
    counts = pc.value_counts(dropped.column(DROP_REASON.name))
    return {count["values"].as_py(): count["counts"].as_py() for count in counts}


def format_counts(counts: Mapping[str, int]) -> str:
    """``http_404 1,136, dns 48``: the largest first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} {count:,}" for reason, count in ordered)


def write_parquet(table: pa.Table, path: Path) -> None:
    """Equal tables give equal files: no schema metadata, one chunking, fixed compression."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(None).combine_chunks(), path, compression="zstd", compression_level=3)


def write_text_atomically(path: Path, text: str) -> None:
    """Replace a small file so that a reader sees the old or the new text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_TEMPORARY}{path.name}")
    temporary.write_text(text)
    temporary.replace(path)


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(root: Path, stage: str) -> Iterator[str]:
    """Hold a stage's folder against other builds in the same data root, and sweep what a killed build left there.

    Yields:
        The lease that `publish` asks for.
    """
    folder = root / stage
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / _LOCK).open("a+")
    except OSError as error:
        raise ValueError(f"cannot write in the data root: {error.filename}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another build that works on {folder}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)  # freed by the system when the holder ends, however it ends
        for leftover in folder.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        lease = uuid.uuid4().hex
        file.truncate(0)
        file.write(lease)
        file.flush()
        yield lease


def _is_held(root: Path, stage: str, lease: str) -> bool:
    """Whether the build that got this lease still runs: the file is locked, and by that build."""
    with (root / stage / _LOCK).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read() == lease
        return False


def _file_entries(folder: Path, num_rows: dict[str, int]) -> list[FileEntry]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        FileEntry(
            path=(name := path.relative_to(folder).as_posix()),
            sha256=sha256_file(path),
            num_bytes=path.stat().st_size,
            num_rows=num_rows.get(name, 1),
        )
        for path in paths
    ]


def _newest_file(folder: Path) -> Path:
    return max(
        (path for path in folder.rglob("*") if not path.is_dir()), key=lambda path: path.stat().st_mtime, default=folder
    )
