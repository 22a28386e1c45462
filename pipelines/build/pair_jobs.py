"""Jobs of image-text pairs: a source's URLs, and their images from the web, from the source itself or from a retry."""

import heapq
import itertools
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.build.job import Job
from pipelines.build.jobs import write_parts
from pipelines.fetch.download import IMAGES_TAR_NAME, Download
from pipelines.fetch.drop_reasons import TRANSIENT_REASONS
from pipelines.fetch.ingest import Ingest
from pipelines.sources.source import ImagePairShard, PairBlock, PairSource
from pipelines.stages.urls import SeenPairs, Urls
from pipelines.storage import DROPPED, KEPT, TableFile, Written, format_counts, write_split
from pipelines.storage.tars import read_tar, write_tar
from schemas.conform import conform, text_or_null
from schemas.tables import DROP_REASON, with_drop_reason
from schemas.versions import schema_id

RETRIES = "retries"  # in the configuration of a retried table: which attempt it is
RETRIED = "retried"  # and what it tried again


def urls_job(asset: str, source: PairSource, block: PairBlock) -> Job:
    """The URLs of a block of a source, cut into shards."""
    stage = Urls(source=source.name)
    config = {**block.config, "first_shard": block.first_shard}
    work = partial(_write_urls, stage, block)
    return Job.of(asset, stage, shard=block.name, config=config, num_rows=block.num_rows, work=work)


def download_job(asset: str, stage: Download, file: TableFile, *, shard: str) -> Job:
    """The images of one shard of URLs; being allowed more addresses is a reason to ask again."""
    return Job.of(
        asset,
        stage,
        shard=shard,
        config={"allow_loopback": stage.http.allow_loopback},
        inputs=(file,),
        num_rows=file.num_rows,
        work=partial(_write_download, stage, file),
        is_resumed=True,
    )


def retry_job(job: Job, stage: Download, previous: dict[str, TableFile], *, reasons: list[str], num_rows: int) -> Job:
    """Try again what a download, or an earlier retry, dropped for one of ``reasons``, and only that: ``num_rows`` rows.

    ``previous`` are the files of its table, by file name.
    """
    return replace(
        job,
        config={**job.config, RETRIES: job.config.get(RETRIES, 0) + 1, RETRIED: reasons},
        inputs=(job.inputs[0], *previous.values()),
        num_rows=num_rows,
        work=partial(_write_retry, stage, previous, frozenset(reasons)),
    )


def ingest_job(asset: str, stage: Ingest, shard: ImagePairShard) -> Job:
    """The images of some pairs that bring theirs, such as those of one tar of a mirror."""
    return Job(
        stage=asset,
        version=stage.version,
        shard=shard.name,
        config={**stage.config, **shard.config, "ingest": True, "schema": schema_id(stage.output_schema)},
        num_rows=shard.num_pairs,
        work=partial(_write_ingest, stage, shard),
    )


def _write_urls(stage: Urls, block: PairBlock, folder: Path) -> Written:
    seen = SeenPairs()
    shards = (f"{stage.source}-{i:05d}" for i in itertools.count(block.first_shard))
    parts = zip(shards, (seen.drop_repeats(stage(table)) for table in _images_uncut(block.read())), strict=False)
    written = write_parts(parts, folder, schema=stage.output_schema, where="urls")
    if not written.rows_kept and block.first_shard == 0:  # a later block may hold a bad row or two and no more
        raise ValueError(
            f"{block.name}: none of its {written.rows_in} rows is a pair ({format_counts(written.dropped)})"
        )
    return written


def _images_uncut(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """As many tables, whose last rows go to the next one where it goes on with their URL: captions of an image share a shard.

    A URL that all rows of a table have stays cut, so that no shard is longer than two.
    """
    before: pa.Table | None = None
    for table in tables:
        if before is not None:
            is_other = pc.fill_null(pc.not_equal(text_or_null(before["url"]), text_or_null(table["url"])[0]), True)
            end = 1 + int(np.flatnonzero(is_other)[-1]) if pc.any(is_other).as_py() else len(before)
            yield before.slice(0, end)
            table = pa.concat_tables([before.slice(end), table])
        before = table
    if before is not None:
        yield before


def _write_download(stage: Download, file: TableFile, folder: Path, *, spool: Path | None = None) -> Written:
    table = conform(pq.read_table(file.local()), stage.input_schema, where=file.name)
    result = stage.run(table, folder=folder, spool=spool)
    written = write_split(result, folder, schema=stage.output_schema, where=file.name)
    if written.rows_in and not written.rows_kept and written.dropped.keys() <= TRANSIENT_REASONS:
        if spool is not None:
            shutil.rmtree(spool, ignore_errors=True)
        # An outage must not pass for a finished shard, which no later build would try again.
        raise ValueError(
            f"none of its {written.rows_in} URLs answered ({format_counts(written.dropped)}): is the web in reach?"
        )
    return _with_images(written)


def _write_retry(
    stage: Download,
    previous: dict[str, TableFile],
    reasons: frozenset[str],
    folder: Path,
    *,
    spool: Path | None = None,
) -> Written:
    """The table before, with what the rows that were tried again gave; its images stay as they are."""
    schema = with_drop_reason(stage.output_schema)
    missing = [file.path for file in previous.values() if not file.path.is_file()]
    if missing:
        raise ValueError(
            f"{missing[0]}, which is to be retried, is missing: move retries.json away to download it anew"
        )
    kept = conform(pq.read_table(previous[KEPT].local()), stage.output_schema, where=previous[KEPT].name)
    dropped = conform(pq.read_table(previous[DROPPED].local()), schema, where=previous[DROPPED].name)
    is_due = np.array([reason in reasons for reason in dropped[DROP_REASON.name].to_pylist()], bool)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".retry-") as scratch:
        due = dropped.filter(pa.array(is_due)).select(stage.input_schema.names)
        tried = stage.run(due.cast(stage.input_schema), folder=Path(scratch), spool=spool)
        images = (read_tar(previous[IMAGES_TAR_NAME].local()), read_tar(Path(scratch) / IMAGES_TAR_NAME))
        write_tar(folder / IMAGES_TAR_NAME, heapq.merge(*images, key=attrgetter("key")))
    nothing = pa.nulls(kept.num_rows, DROP_REASON.type)
    parts = [kept.append_column(DROP_REASON, nothing), dropped.filter(pa.array(~is_due)), tried]
    table = pa.concat_tables([part.cast(schema) for part in parts]).sort_by("key")
    return _with_images(write_split(table, folder, schema=stage.output_schema, where=previous[KEPT].name))


def _write_ingest(stage: Ingest, shard: ImagePairShard, folder: Path) -> Written:
    table = stage.run(shard.read(), source=shard.source, folder=folder)
    return _with_images(write_split(table, folder, schema=stage.output_schema, where=shard.name))


def _with_images(written: Written) -> Written:
    """Of a table that has its images beside it."""
    return replace(written, num_rows=written.num_rows | {IMAGES_TAR_NAME: written.rows_kept})


def rows_by_reason(file: TableFile) -> Counter[str]:
    """Rows of a dropped.parquet."""
    return Counter(pq.read_table(file.local(), columns=[DROP_REASON.name])[DROP_REASON.name].to_pylist())
