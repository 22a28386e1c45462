"""Jobs of stages on their files; the functions that do the work run inside a worker process."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.build.job import Job
from pipelines.fetch.decoder import resize_all
from pipelines.sources.source import BoxedSource, ValidationSource
from pipelines.stages.stage import GlobalStage, LazyTables, Stage
from pipelines.stages.training_shards import write_image_text_shard, write_shard
from pipelines.storage import WHOLE, TableFile, Written, write_parquet, write_split
from schemas.conform import conform
from schemas.shard_index import index_name, source_of
from schemas.source_images import BoxedImage
from schemas.tables import PHRASES
from schemas.versions import BOXED_SAMPLE, TRAINING_SAMPLE, VALIDATION_SET

CONCEPTS = "concepts.parquet"
ANNOTATIONS = "annotations.json"
VALIDATION_IMAGES = "images"

# Bumped by hand when what is written for these changes; everything else has the version of its stage.
IMAGE_TEXT_SHARDS_VERSION = 4
BOXED_SHARDS_VERSION = 5
VALIDATION_VERSION = 2

# Boxed shards: how often training sees each text with a box.
CONCEPTS_SCHEMA = pa.schema(
    [
        pa.field("concept", pa.string(), nullable=False),
        pa.field("num_images", pa.int64(), nullable=False),
        pa.field("num_boxes", pa.int64(), nullable=False),
    ]
)


def shard_job(asset: str, stage: Stage, file: TableFile, *, shard: str) -> Job:
    """A stage on one shard."""
    work = partial(_write_stage, stage, file)
    return Job.of(asset, stage, shard=shard, inputs=(file,), num_rows=file.num_rows, work=work)


def global_job(asset: str, stage: GlobalStage, files: Mapping[str, TableFile]) -> Job:
    """A stage on all shards; it publishes one kept and one dropped file a shard, so that what is unchanged stays valid.

    ``files`` have those of the oldest source first: a verdict may depend on who was there before.
    """
    return Job.of(
        asset,
        stage,
        shard=WHOLE,
        config={"sources": list(dict.fromkeys(source_of(shard) for shard in files))},
        inputs=tuple(files.values()),
        num_rows=sum(file.num_rows for file in files.values()),
        work=partial(_write_global, stage, dict(files)),
    )


def image_text_job(asset: str, file: TableFile, images_tar: TableFile, *, shard: str) -> Job:
    """The training shard of one shard of pairs."""
    return Job(
        stage=asset,
        version=IMAGE_TEXT_SHARDS_VERSION,
        shard=shard,
        config={"schema": TRAINING_SAMPLE},
        inputs=(file, images_tar),
        num_rows=file.num_rows,
        work=partial(_write_image_text, file, images_tar, f"{shard}.tar"),
    )


def boxed_jobs(asset: str, source: BoxedSource, *, images_per_shard: int) -> list[Job]:
    """The training shards of a source with boxes, each a range of its images."""
    config = {**source.config, "schema": BOXED_SAMPLE}  # once: a source looks at every image for it
    starts = range(0, len(source), images_per_shard)
    return [
        Job(
            stage=asset,
            version=BOXED_SHARDS_VERSION,
            shard=(shard := f"{source.name}-{i:05d}"),
            config={**config, "start": start, "stop": (stop := min(start + images_per_shard, len(source)))},
            num_rows=stop - start,
            work=partial(_write_boxed, source, start, stop, f"{shard}.tar"),
        )
        for i, start in enumerate(starts)
    ]


def validation_job(asset: str, source: ValidationSource, *, concepts: tuple[TableFile, ...]) -> Job:
    """A validation set; its category frequencies count the training images of ``concepts``."""
    return Job(
        stage=asset,
        version=VALIDATION_VERSION,
        shard=source.name,
        config={**source.config, "schema": VALIDATION_SET},
        inputs=concepts,
        num_rows=1,
        work=partial(_write_validation, source, concepts),
    )


def train_image_counts(concepts: tuple[TableFile, ...]) -> dict[str, int]:
    """Training images with a box of each text."""
    counts: Counter[str] = Counter()
    for file in concepts:
        counts.update({row["concept"]: row["num_images"] for row in pq.read_table(file.local()).to_pylist()})
    return dict(counts)


def _write_stage(stage: Stage, file: TableFile, folder: Path) -> Written:
    table = read_rows(file, stage.input_schema)
    return write_split(stage(table), folder, schema=stage.output_schema, where=f"{stage.name} of {file.name}")


def _write_global(stage: GlobalStage, files: dict[str, TableFile], folder: Path) -> Written:
    tables = LazyTables({shard: partial(read_rows, file, stage.input_schema) for shard, file in files.items()})
    return write_parts(stage(tables, scratch=folder).items(), folder, schema=stage.output_schema, where=stage.name)


def read_rows(file: TableFile, schema: pa.Schema) -> pa.Table:
    """A table with exactly the columns of a schema; no other is read."""
    return conform(pq.read_table(file.local(), columns=schema.names), schema, where=file.name)


def write_parts(parts: Iterable[tuple[str, pa.Table]], folder: Path, *, schema: pa.Schema, where: str) -> Written:
    """One kept and one dropped file a shard, with the sums of all."""
    reasons: Counter[str] = Counter()
    num_rows = {}
    rows_in = 0
    for shard, table in parts:
        written = write_split(table, folder / shard, schema=schema, where=f"{where} of {shard}")
        reasons.update(written.dropped)
        rows_in += written.rows_in
        num_rows.update({f"{shard}/{name}": count for name, count in written.num_rows.items()})
    return Written(rows_in=rows_in, rows_kept=rows_in - reasons.total(), dropped=dict(reasons), num_rows=num_rows)


def _write_image_text(file: TableFile, images_tar: TableFile, name: str, folder: Path) -> Written:
    table = read_rows(file, PHRASES)
    entry = write_image_text_shard(folder / name, table, images_tar=images_tar.local())
    num_rows = dict.fromkeys((name, index_name(name)), entry.num_rows)
    return Written(rows_in=table.num_rows, rows_kept=table.num_rows, num_rows=num_rows)  # pairs; the tar counts images


def _write_boxed(source: BoxedSource, start: int, stop: int, name: str, folder: Path) -> Written:
    """A shard and its `CONCEPTS`. Rows are boxes here, since it is boxes that are dropped, by reason."""
    num_images, num_boxes, dropped = Counter[str](), Counter[str](), Counter[str]()

    def counted() -> Iterator[BoxedImage]:
        for image in source.read(start, stop, resize_all=resize_all):
            dropped.update(image.dropped_boxes)
            if isinstance(image, BoxedImage):
                texts = [image.sample.concepts[label] for label in image.sample.labels]
                num_boxes.update(texts)
                num_images.update(set(texts))
                yield image

    entry = write_shard(folder / name, counted())
    concepts = [
        {"concept": text, "num_images": num_images[text], "num_boxes": num_boxes[text]} for text in sorted(num_boxes)
    ]
    write_parquet(pa.Table.from_pylist(concepts, schema=CONCEPTS_SCHEMA), folder / CONCEPTS)
    return Written(
        rows_in=num_boxes.total() + dropped.total(),
        rows_kept=num_boxes.total(),
        dropped=dict(dropped),
        num_rows={name: entry.num_rows, index_name(name): entry.num_rows, CONCEPTS: len(concepts)},
    )


def _write_validation(source: ValidationSource, concepts: tuple[TableFile, ...], folder: Path) -> Written:
    """A validation set. Rows are boxes, as in training."""
    counts = source.write(folder, train_image_counts=train_image_counts(concepts), resize_all=resize_all)
    return Written(
        rows_in=counts.num_boxes + sum(counts.dropped_boxes.values()),
        rows_kept=counts.num_boxes,
        dropped=dict(counts.dropped_boxes),
        num_rows={ANNOTATIONS: counts.num_images},
    )
