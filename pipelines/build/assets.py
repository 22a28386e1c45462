"""Asset table: every asset of a dataset in the order of the build, with the jobs that it wants. Runs nothing itself.

Dagster's graph, the plan, the funnel, priorities and default rates are generated from `ASSETS`: a new asset is one row there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

from pipelines.build.asset_inputs import AssetInputs
from pipelines.build.asset_rates import Rate
from pipelines.build.build_config import DatasetConfig
from pipelines.build.job import Job
from pipelines.build.jobs import CONCEPTS, boxed_jobs, global_job, image_text_job, shard_job, validation_job
from pipelines.build.pair_jobs import urls_job
from pipelines.build.phrase_jobs import (
    BOUNDS_FILE,
    PHRASE_COUNTS_FILE,
    SHARDS_PER_COUNT,
    balance_job,
    bounds_job,
    phrase_count_jobs,
    statistics_job,
)
from pipelines.build.runner import Where
from pipelines.fetch.download import IMAGES_TAR_NAME
from pipelines.sources.source import BoxedSource, ImagePairSource
from pipelines.stages.hold_out import HoldOut
from pipelines.stages.stage import Stage
from pipelines.storage import WHOLE
from schemas.shard_index import source_of


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One asset.

    Attributes:
        name: of the asset, of its folder in the data root and of the stage in its tables' manifests.
        unit: what a row of its table is.
        summary: what it holds, for people.
        parents: the assets whose tables its jobs read.
        find_jobs: what it wants, one job a table.
        where: in what its jobs run.
        is_global: one job reads all shards.
        is_absent: whether a dataset has nothing of it, told without any table.
        rate: what a row costs on one machine of a few cores, until a data root has measured its own.
        needs_web: its jobs run while `AssetInputs.connected` is entered.
        shards_per_job: shards of its parents that one job reads.
        rows_per_job: what a job counts where that does not depend on its parents.
    """

    name: str
    unit: str = "pairs"
    summary: str
    parents: tuple[str, ...] = ()
    find_jobs: Callable[[AssetInputs], list[Job]]
    where: Where = "ray"
    is_global: bool = False
    is_absent: Callable[[DatasetConfig], bool] = lambda _: False
    rate: Rate
    needs_web: bool = False
    shards_per_job: int = 1
    rows_per_job: int | None = None

    def jobs(self, inputs: AssetInputs) -> list[Job]:
        """What it wants. The tables of its parents must be at hand."""
        return [] if self.is_absent(inputs.dataset) else self.find_jobs(inputs)


def _urls(inputs: AssetInputs) -> list[Job]:
    dataset = inputs.dataset
    return [
        urls_job("urls", source, block)
        for source in dataset.pairs
        if not isinstance(source, ImagePairSource)
        for block in source.blocks(dataset.num_pairs, num_rows=dataset.pairs_per_shard)
    ]


def _by_shard(
    asset: str, find_stage: Callable[[DatasetConfig], Stage], *parents: str
) -> Callable[[AssetInputs], list[Job]]:
    """A stage on every shard of the first parent that the dataset has something of."""

    def find_jobs(inputs: AssetInputs) -> list[Job]:
        stage = find_stage(inputs.dataset)
        parent = next(name for name in parents if not ASSETS[name].is_absent(inputs.dataset))
        return [shard_job(asset, stage, file, shard=shard) for shard, file in inputs.kept(parent).items()]

    return find_jobs


def _deduplicated(inputs: AssetInputs) -> list[Job]:
    files = inputs.kept("filtered")
    return [global_job("deduplicated", inputs.dataset.dedup, files)] if files else []


def _hold_out(dataset: DatasetConfig) -> HoldOut:
    assert dataset.held_out is not None
    return HoldOut(images=dataset.held_out)


def _phrase_bounds(inputs: AssetInputs) -> list[Job]:
    files = inputs.kept("noun_phrases")
    return [bounds_job("phrase_bounds", inputs.dataset.balance, list(files.values()))] if files else []


def _balanced(inputs: AssetInputs) -> list[Job]:
    balance, files = inputs.dataset.balance, inputs.kept("noun_phrases")
    found = inputs.tables("phrase_bounds")
    if balance.is_bounded and not found:  # a plan: they wait for the bounds
        return []
    bounds = found[WHOLE].file(BOUNDS_FILE) if balance.is_bounded else None
    return [balance_job("balanced", balance, file, bounds, shard=shard) for shard, file in files.items()]


def _phrase_counts(inputs: AssetInputs) -> list[Job]:
    by_source = groupby(inputs.kept("balanced").items(), key=lambda item: source_of(item[0]))
    return [
        job for source, files in by_source for job in phrase_count_jobs("phrase_counts", dict(files), source=source)
    ]


def _statistics(inputs: AssetInputs) -> list[Job]:
    counts = [table.file(PHRASE_COUNTS_FILE) for table in inputs.tables("phrase_counts").values()]
    return [statistics_job("statistics", counts)] if counts else []


def _image_text_shards(inputs: AssetInputs) -> list[Job]:
    images = inputs.tables("images")
    return [
        image_text_job("image_text_shards", file, images[shard].file(IMAGES_TAR_NAME), shard=shard)
        for shard, file in inputs.kept("balanced").items()
    ]


def _boxed(
    asset: str, find_sources: Callable[[DatasetConfig], tuple[BoxedSource, ...]]
) -> Callable[[AssetInputs], list[Job]]:
    def find_jobs(inputs: AssetInputs) -> list[Job]:
        size = inputs.dataset.images_per_shard
        sources = find_sources(inputs.dataset)
        return [job for source in sources for job in boxed_jobs(asset, source, images_per_shard=size)]

    return find_jobs


def _validation(inputs: AssetInputs) -> list[Job]:
    assert inputs.dataset.validation is not None
    tables = [*inputs.tables("detection_shards").values(), *inputs.tables("grounding_shards").values()]
    concepts = tuple(table.file(CONCEPTS) for table in tables)
    return [validation_job("validation", inputs.dataset.validation, concepts=concepts)]


ASSETS: dict[str, Asset] = {
    asset.name: asset
    for asset in (
        Asset(
            name="urls",
            summary="Distinct, well-formed image-text pairs of every source, in shards of consecutive rows.",
            find_jobs=_urls,
            where="here",
            rate=Rate(rows_per_s=100_000, bytes_per_row=180),
        ),
        Asset(
            name="images",
            summary="The images: downloaded, tried again, or as the source has them.",
            parents=("urls",),
            find_jobs=AssetInputs.image_jobs,
            needs_web=True,
            rate=Rate(rows_per_s=100, bytes_per_row=25_000),
        ),
        Asset(
            name="filtered",
            summary="Pairs whose image is large enough and whose caption is English text.",
            parents=("images",),
            find_jobs=_by_shard("filtered", lambda dataset: dataset.filters, "images"),
            rate=Rate(rows_per_s=50_000, bytes_per_row=200),
        ),
        Asset(
            name="deduplicated",
            summary="One image of all its copies over all shards, with all its captions.",
            parents=("filtered",),
            find_jobs=_deduplicated,
            where="here",
            is_global=True,
            rate=Rate(rows_per_s=50_000, bytes_per_row=200),
        ),
        Asset(
            name="held_out",
            summary="Pairs whose image is not kept for evaluation, where the build names such images.",
            parents=("deduplicated",),
            find_jobs=_by_shard("held_out", _hold_out, "deduplicated"),
            where="here",
            is_absent=lambda dataset: dataset.held_out is None,
            rate=Rate(rows_per_s=50_000, bytes_per_row=200),
        ),
        Asset(
            name="noun_phrases",
            summary="Pairs with the noun phrases of their captions.",
            parents=("deduplicated", "held_out"),
            find_jobs=_by_shard("noun_phrases", lambda dataset: dataset.noun_phrases, "held_out", "deduplicated"),
            where="actors",
            rate=Rate(rows_per_s=500, bytes_per_row=250),
        ),
        Asset(
            name="phrase_bounds",
            summary="The phrases that are too rare or too common over all shards, where the build bounds them.",
            parents=("noun_phrases",),
            find_jobs=_phrase_bounds,
            where="here",
            is_global=True,
            is_absent=lambda dataset: not dataset.balance.is_bounded,
            rate=Rate(rows_per_s=200_000, bytes_per_row=1),
        ),
        Asset(
            name="balanced",
            summary="Fewer pairs of the concepts that the web has most of.",
            parents=("noun_phrases", "phrase_bounds"),
            find_jobs=_balanced,
            rate=Rate(rows_per_s=50_000, bytes_per_row=250),
        ),
        Asset(
            name="phrase_counts",
            summary="How many pairs of a few shards each have a phrase.",
            parents=("balanced",),
            find_jobs=_phrase_counts,
            shards_per_job=SHARDS_PER_COUNT,
            rate=Rate(rows_per_s=200_000, bytes_per_row=20),
        ),
        Asset(
            name="statistics",
            unit="phrases",
            summary="How often each phrase and head noun occurs: phrases.parquet and heads.parquet.",
            parents=("phrase_counts",),
            find_jobs=_statistics,
            where="here",
            is_global=True,
            rate=Rate(rows_per_s=200_000, bytes_per_row=20),
        ),
        Asset(
            name="image_text_shards",
            summary="Training shards of images with captions and phrases.",
            parents=("balanced", "images"),
            find_jobs=_image_text_shards,
            rate=Rate(rows_per_s=5_000, bytes_per_row=25_000),
        ),
        Asset(
            name="detection_shards",
            unit="boxes",
            summary="Training shards of images with boxes and category names.",
            find_jobs=_boxed("detection_shards", lambda dataset: dataset.detection),
            rate=Rate(rows_per_s=30, bytes_per_row=200_000),
        ),
        Asset(
            name="grounding_shards",
            unit="boxes",
            summary="Training shards of images with boxes and phrases.",
            find_jobs=_boxed("grounding_shards", lambda dataset: dataset.grounding),
            rate=Rate(rows_per_s=30, bytes_per_row=150_000),
        ),
        Asset(
            name="validation",
            unit="boxes",
            summary="The held-out images in LVIS v1 format; how rare a category is follows from the training boxes.",
            parents=("detection_shards", "grounding_shards"),
            find_jobs=_validation,
            where="here",
            is_global=True,
            is_absent=lambda dataset: dataset.validation is None,
            rows_per_job=1,
            rate=Rate(rows_per_s=1, bytes_per_row=0),
        ),
    )
}
