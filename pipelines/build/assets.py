"""The street: its assets in order, and which jobs each wants, given the tables of those before it. Runs nothing itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from pipelines.build.build_config import DatasetConfig
from pipelines.build.jobs import (
    CONCEPTS,
    boxed_jobs,
    global_job,
    image_text_job,
    shard_job,
    validation_job,
)
from pipelines.build.pair_jobs import download_job, ingest_job, urls_job
from pipelines.build.phrase_jobs import (
    BOUNDS_FILE,
    PHRASE_COUNTS_FILE,
    balance_job,
    bounds_job,
    phrase_count_jobs,
    statistics_job,
)
from pipelines.build.retries import Retries
from pipelines.sources.captions.webdataset_mirror import WebDatasetMirror
from pipelines.fetch.download import IMAGES_TAR_NAME, Download
from pipelines.stages.hold_out import HoldOut
from pipelines.fetch.ingest import Ingest
from pipelines.build.job import Job
from pipelines.storage import WHOLE, Location, PublishedTable, TableFile, kept_files

Tables = Mapping[str, PublishedTable]


@dataclass(frozen=True, kw_only=True)
class Walk:
    """One dataset in one data root.

    Attributes:
        dataset: what is wanted.
        root: the data root, absolute.
        tables: of an asset by shard, those that stand.
        retries: which downloads were tried again.
    """

    dataset: DatasetConfig
    root: Location
    tables: Callable[[str], Tables]
    retries: Retries

    def jobs(self, asset: str) -> list[Job]:
        """What an asset wants, one a shard. The tables of its parents must be at hand."""
        return ASSETS[asset].jobs(self)

    def kept(self, asset: str) -> dict[str, TableFile]:
        """The kept rows of an asset by shard, the oldest source first."""
        ages = {source.name: age for age, source in enumerate(self.dataset.pairs)}
        files = kept_files(self.tables(asset))
        return dict(sorted(files.items(), key=lambda item: (ages[source_of(item[0])], item[0])))

    def downloads(self, download: Download | None = None) -> list[Job]:
        """The first downloads of all shards of URLs, without regard to retries.

        Args:
            download: the stage, where it is not as the dataset has it (connected to a small web, say).
        """
        stage = download or self.dataset.download
        return [download_job("images", stage, file, shard=shard) for shard, file in self.kept("urls").items()]

    def image_jobs(self, download: Download | None = None) -> list[Job]:
        """The downloads, each as its last retry has it, and the tars of the mirrors."""
        stage = download or self.dataset.download
        return [self.retries.latest(job, stage) for job in self.downloads(stage)] + self._ingests

    @cached_property
    def _ingests(self) -> list[Job]:
        stage = Ingest(**self.dataset.download.config)
        mirrors = [source for source in self.dataset.pairs if isinstance(source, WebDatasetMirror)]
        return [ingest_job("images", stage, shard) for mirror in mirrors for shard in mirror.shards()]


def source_of(shard: str) -> str:
    """The name of a shard's source."""
    return shard.partition("-")[0]


def _urls(walk: Walk) -> list[Job]:
    dataset = walk.dataset
    return [
        urls_job("urls", source, block)
        for source in dataset.pairs
        if not isinstance(source, WebDatasetMirror)
        for block in source.blocks(dataset.num_pairs, num_rows=dataset.pairs_per_shard)
    ]


def _images(walk: Walk) -> list[Job]:
    return walk.image_jobs()


def _filtered(walk: Walk) -> list[Job]:
    stage = walk.dataset.filters
    return [shard_job("filtered", stage, file, shard=shard) for shard, file in walk.kept("images").items()]


def _deduplicated(walk: Walk) -> list[Job]:
    files = walk.kept("filtered")
    return [global_job("deduplicated", walk.dataset.dedup, files, sources=_sources(files))] if files else []


def _held_out(walk: Walk) -> list[Job]:
    if walk.dataset.held_out is None:
        return []
    stage = HoldOut(images=walk.dataset.held_out)
    return [shard_job("held_out", stage, file, shard=shard) for shard, file in walk.kept("deduplicated").items()]


def _noun_phrases(walk: Walk) -> list[Job]:
    stage = walk.dataset.noun_phrases
    files = walk.kept("deduplicated" if walk.dataset.held_out is None else "held_out")
    return [shard_job("noun_phrases", stage, file, shard=shard) for shard, file in files.items()]


def _phrase_bounds(walk: Walk) -> list[Job]:
    files = walk.kept("noun_phrases")
    balance = walk.dataset.balance
    return [bounds_job("phrase_bounds", balance, list(files.values()))] if files and balance.is_bounded else []


def _balanced(walk: Walk) -> list[Job]:
    balance = walk.dataset.balance
    bounds = walk.tables("phrase_bounds")[WHOLE].file(BOUNDS_FILE) if balance.is_bounded else None
    files = walk.kept("noun_phrases")
    return [balance_job("balanced", balance, file, bounds, shard=shard) for shard, file in files.items()]


def _phrase_counts(walk: Walk) -> list[Job]:
    files = walk.kept("balanced")
    jobs = []
    for source in _sources(files):
        of_source = {shard: file for shard, file in files.items() if source_of(shard) == source}
        jobs += phrase_count_jobs("phrase_counts", of_source, source=source)
    return jobs


def _statistics(walk: Walk) -> list[Job]:
    counts = [table.file(PHRASE_COUNTS_FILE) for table in walk.tables("phrase_counts").values()]
    return [statistics_job("statistics", counts)] if counts else []


def _image_text_shards(walk: Walk) -> list[Job]:
    images = walk.tables("images")
    return [
        image_text_job("image_text_shards", file, images[shard].file(IMAGES_TAR_NAME), shard=shard)
        for shard, file in walk.kept("balanced").items()
    ]


def _detection_shards(walk: Walk) -> list[Job]:
    return _boxed("detection_shards", walk)


def _grounding_shards(walk: Walk) -> list[Job]:
    return _boxed("grounding_shards", walk)


def _boxed(asset: str, walk: Walk) -> list[Job]:
    dataset = walk.dataset
    sources = dataset.detection if asset == "detection_shards" else dataset.grounding
    return [job for s in sources for job in boxed_jobs(asset, s, images_per_shard=dataset.images_per_shard)]


def _validation(walk: Walk) -> list[Job]:
    source = walk.dataset.validation
    if source is None:
        return []
    tables = [*walk.tables("detection_shards").values(), *walk.tables("grounding_shards").values()]
    return [validation_job("validation", source, concepts=tuple(table.file(CONCEPTS) for table in tables))]


def _sources(files: Mapping[str, TableFile]) -> list[str]:
    return list(dict.fromkeys(source_of(shard) for shard in files))


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One asset.

    Attributes:
        unit: what a row of its table is.
        parents: the assets whose tables its jobs read.
        jobs: what it wants.
        is_global: one job reads all shards.
    """

    unit: str
    parents: tuple[str, ...] = ()
    jobs: Callable[[Walk], list[Job]]
    is_global: bool = False


# In the order of the street.
ASSETS: dict[str, Asset] = {
    "urls": Asset(unit="pairs", jobs=_urls),
    "images": Asset(unit="pairs", parents=("urls",), jobs=_images),
    "filtered": Asset(unit="pairs", parents=("images",), jobs=_filtered),
    "deduplicated": Asset(unit="pairs", parents=("filtered",), jobs=_deduplicated, is_global=True),
    "held_out": Asset(unit="pairs", parents=("deduplicated",), jobs=_held_out),
    "noun_phrases": Asset(unit="pairs", parents=("deduplicated", "held_out"), jobs=_noun_phrases),
    "phrase_bounds": Asset(unit="pairs", parents=("noun_phrases",), jobs=_phrase_bounds, is_global=True),
    "balanced": Asset(unit="pairs", parents=("noun_phrases", "phrase_bounds"), jobs=_balanced),
    "phrase_counts": Asset(unit="pairs", parents=("balanced",), jobs=_phrase_counts),
    "statistics": Asset(unit="phrases", parents=("phrase_counts",), jobs=_statistics, is_global=True),
    "image_text_shards": Asset(unit="pairs", parents=("balanced", "images"), jobs=_image_text_shards),
    "detection_shards": Asset(unit="boxes", jobs=_detection_shards),
    "grounding_shards": Asset(unit="boxes", jobs=_grounding_shards),
    "validation": Asset(
        unit="images", parents=("detection_shards", "grounding_shards"), jobs=_validation, is_global=True
    ),
}
