"""The asset graph: the whole data street on one page.

Run it embedded with `build`, which needs no server, or in the Dagster UI: ``dagster dev -m pipelines.assets``. The resource
``street`` chooses the dataset; an asset runs only the shards that are new or whose inputs, settings or code changed.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import dagster as dg
from pydantic import TypeAdapter

from pipelines.config import BuildConfig, DatasetConfig
from pipelines.runner import AssetRun, Runner
from pipelines.runner.dataset import assemble_dataset, publish_dataset
from pipelines.runner.jobs import (
    CONCEPTS,
    boxed_jobs,
    download_job,
    global_job,
    image_text_job,
    shard_job,
    urls_job,
    validation_job,
)
from pipelines.stages.download import IMAGES_TAR_NAME
from pipelines.storage import Job, TableFile, format_counts, kept_files, local_folder

# In the order of the street, with what a row of each one's table is.
UNITS = {
    "urls": "pairs",
    "images": "pairs",
    "filtered": "pairs",
    "deduplicated": "pairs",
    "noun_phrases": "pairs",
    "balanced": "pairs",
    "image_text_shards": "pairs",
    "detection_shards": "boxes",
    "grounding_shards": "boxes",
    "validation": "pictures",
}


SHARDS_RUN = "shards run"
AFTER_PAIRS = {"dagster/priority": "-1"}  # what does not hang together runs in the order of the street


class Street(dg.ConfigurableResource):
    """Which dataset to build, and where: the options of `pipelines.config.BuildConfig`."""

    scale: str = "demo"
    root: str = "outputs/data"
    name: str | None = None
    urls: str | None = None
    allow_loopback: bool = False
    image_size: int = 320
    detection: str | None = None
    images: str | None = None
    validation: str | None = None
    max_side: int = 1333


def _build_config(street: Street) -> BuildConfig:
    return TypeAdapter(BuildConfig).validate_python(street.model_dump())


def _dataset(street: Street) -> DatasetConfig:
    return _build_config(street).dataset()


def _runner(street: Street) -> Runner:
    return Runner(_build_config(street).root, dataset=_dataset(street).name)


def _kept(street: Street, asset: str) -> dict[str, TableFile]:
    """The kept rows of an asset, by shard."""
    return kept_files(_runner(street).tables(asset))


def _run(street: Street, asset: str, jobs: list[Job], *, where: Literal["ray", "here"]) -> dg.MaterializeResult:
    return _result(_runner(street).run(asset, jobs, where=where))


def _result(run: AssetRun) -> dg.MaterializeResult:
    metadata: dict[str, dg.RawMetadataValue] = {
        "what ran": run.line,
        "rows in": run.rows_in,
        "rows kept": run.rows_kept,
        "dropped": dg.MetadataValue.json(run.dropped),
        "shards": len(run.tables),
        SHARDS_RUN: len(run.reasons),
    }
    return dg.MaterializeResult(metadata=metadata)


@dg.asset
def urls(street: Street) -> dg.MaterializeResult:
    """Distinct, well-formed image-text pairs, in shards of consecutive rows."""
    dataset = _dataset(street)
    if dataset.pairs is None:
        return _run(street, "urls", [], where="here")
    job = urls_job(dataset.pairs, num_pairs=dataset.num_pairs, pairs_per_shard=dataset.pairs_per_shard)
    return _run(street, "urls", [job], where="here")


@dg.asset(deps=[urls])
def images(street: Street) -> dg.MaterializeResult:
    """The downloaded pictures."""
    dataset, runner = _dataset(street), _runner(street)

    @contextmanager
    def connected(due: list[Job]) -> Iterator[list[Job]]:
        with dataset.connected(folder=local_folder(runner.root, "small_web")) as download:
            yield [download_job("images", download, job.inputs[0], shard=job.shard) for job in due]

    jobs = [
        download_job("images", dataset.download, file, shard=shard) for shard, file in _kept(street, "urls").items()
    ]
    return _result(runner.run("images", jobs, where="ray", around=connected))


@dg.asset(deps=[images])
def filtered(street: Street) -> dg.MaterializeResult:
    """Pairs whose picture is large enough and whose caption is English text."""
    stage = _dataset(street).filters
    jobs = [shard_job("filtered", stage, file, shard=shard) for shard, file in _kept(street, "images").items()]
    return _run(street, "filtered", jobs, where="ray")


@dg.asset(deps=[filtered])
def deduplicated(street: Street) -> dg.MaterializeResult:
    """One pair a picture, over all shards."""
    files = _kept(street, "filtered")
    jobs = [global_job("deduplicated", _dataset(street).dedup, files)] if files else []
    return _run(street, "deduplicated", jobs, where="here")


@dg.asset(deps=[deduplicated])
def noun_phrases(street: Street) -> dg.MaterializeResult:
    """Pairs with the noun phrases of their captions."""
    stage = _dataset(street).noun_phrases
    jobs = [
        shard_job("noun_phrases", stage, file, shard=shard) for shard, file in _kept(street, "deduplicated").items()
    ]
    return _run(street, "noun_phrases", jobs, where="ray")


@dg.asset(deps=[noun_phrases])
def balanced(street: Street) -> dg.MaterializeResult:
    """Fewer pairs of what the web has too much of, over all shards."""
    files = _kept(street, "noun_phrases")
    jobs = [global_job("balanced", _dataset(street).balance, files)] if files else []
    return _run(street, "balanced", jobs, where="here")


@dg.asset(deps=[balanced, images])
def image_text_shards(street: Street) -> dg.MaterializeResult:
    """Training shards of pictures with captions and phrases."""
    pictures = _runner(street).tables("images")
    jobs = [
        image_text_job("image_text_shards", file, pictures[shard].file(IMAGES_TAR_NAME), shard=shard)
        for shard, file in _kept(street, "balanced").items()
    ]
    return _run(street, "image_text_shards", jobs, where="ray")


@dg.asset(op_tags=AFTER_PAIRS)
def detection_shards(street: Street) -> dg.MaterializeResult:
    """Training shards of pictures with boxes and category names."""
    dataset = _dataset(street)
    source = dataset.detection
    jobs = (
        [] if source is None else boxed_jobs("detection_shards", source, pictures_per_shard=dataset.pictures_per_shard)
    )
    return _run(street, "detection_shards", jobs, where="ray")


@dg.asset(op_tags=AFTER_PAIRS)
def grounding_shards(street: Street) -> dg.MaterializeResult:
    """Training shards of pictures with boxes and phrases."""
    dataset = _dataset(street)
    source = dataset.grounding
    jobs = (
        [] if source is None else boxed_jobs("grounding_shards", source, pictures_per_shard=dataset.pictures_per_shard)
    )
    return _run(street, "grounding_shards", jobs, where="ray")


@dg.asset(deps=[detection_shards, grounding_shards], op_tags=AFTER_PAIRS)
def validation(street: Street) -> dg.MaterializeResult:
    """The held-out pictures in LVIS v1 format; how rare a category is follows from the training boxes."""
    source, runner = _dataset(street).validation, _runner(street)
    tables = [*runner.tables("detection_shards").values(), *runner.tables("grounding_shards").values()]
    concepts = tuple(table.file(CONCEPTS) for table in tables)
    jobs = [] if source is None else [validation_job("validation", source, concepts=concepts)]
    return _run(street, "validation", jobs, where="here")


@dg.asset(deps=[image_text_shards, validation])
def dataset(street: Street) -> dg.MaterializeResult:
    """The manifest that names everything a training run reads."""
    config, runner = _dataset(street), _runner(street)
    manifest = assemble_dataset(
        config.name,
        assets={asset: runner.tables(asset) for asset in UNITS},
        categories=[] if config.detection is None else config.detection.vocabulary(),
        units=UNITS,
    )
    if not manifest.supervisions:
        steps = [f"{row['stage']} kept {row['rows_kept']} ({format_counts(row['dropped'])})" for row in manifest.funnel]
        raise ValueError(f"no training sample is left: {'; '.join(steps)}")
    change = publish_dataset(manifest, folder=runner.folder)
    line = f"{'dataset':<18} {change or 'unchanged'}: {manifest.digest[:16]}"
    runner.console.print(line, highlight=False)
    return dg.MaterializeResult(metadata={"what ran": line, "digest": manifest.digest})


ASSETS = [
    urls,
    images,
    filtered,
    deduplicated,
    noun_phrases,
    balanced,
    image_text_shards,
    detection_shards,
    grounding_shards,
    validation,
    dataset,
]
# One process: steps in processes of their own would each start a Ray cluster.
defs = dg.Definitions(assets=ASSETS, resources={"street": Street()}, executor=dg.in_process_executor)


def build(config: BuildConfig) -> int:
    """Bring a whole dataset up to date in this process.

    Returns:
        The number of tables that had to be computed.

    Raises:
        ValueError: the options or the data are at fault; what was finished stays.
    """
    config.dataset()  # errors in the options come before anything runs
    logging.getLogger("dagster").setLevel(logging.CRITICAL)
    street = Street(**TypeAdapter(BuildConfig).dump_python(config, mode="json"))
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    with dg.DagsterInstance.ephemeral() as instance:
        try:
            result = dg.materialize(ASSETS, resources={"street": street}, instance=instance, run_config=quiet)
        except dg.DagsterExecutionInterruptedError as error:
            raise KeyboardInterrupt from error
    counts = [event.materialization.metadata.get(SHARDS_RUN) for event in result.get_asset_materialization_events()]
    return sum(count.value or 0 for count in counts if isinstance(count, dg.IntMetadataValue))
