"""Asset inputs: what the jobs of an asset are made from, given the tables of the assets before it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from pipelines.build.build_config import DatasetConfig
from pipelines.build.job import Job
from pipelines.build.pair_jobs import download_job, ingest_job
from pipelines.build.retries import Retries
from pipelines.build.runner import Runner
from pipelines.fetch.download import Download
from pipelines.fetch.ingest import Ingest
from pipelines.sources.source import ImagePairSource
from pipelines.storage import Location, PublishedTable, TableFile, kept_files, local_folder
from schemas.shard_index import source_of

Tables = Mapping[str, PublishedTable]


@dataclass(frozen=True, kw_only=True)
class AssetInputs:
    """One dataset in one data root.

    Attributes:
        dataset: what is wanted.
        root: the data root, absolute.
        tables: of an asset by shard, those that are published.
        retries: which downloads were tried again.
    """

    dataset: DatasetConfig
    root: Location
    tables: Callable[[str], Tables]
    retries: Retries

    @classmethod
    def open(cls, dataset: DatasetConfig, runner: Runner) -> "AssetInputs":
        """Of the tables that a dataset has now."""
        return cls(dataset=dataset, root=runner.root, tables=runner.tables, retries=Retries.read(runner.root))

    def kept(self, asset: str) -> dict[str, TableFile]:
        """The kept rows of an asset by shard, the oldest source first."""
        ages = {source.name: age for age, source in enumerate(self.dataset.pairs)}
        files = kept_files(self.tables(asset))
        return dict(sorted(files.items(), key=lambda item: (ages[source_of(item[0])], item[0])))

    def downloads(self, download: Download | None = None) -> list[Job]:
        """The first downloads of all shards of URLs, without regard to retries.

        ``download`` is the stage, where it is not as the dataset has it (connected to a small web, say).
        """
        stage = download or self.dataset.download
        return [download_job("images", stage, file, shard=shard) for shard, file in self.kept("urls").items()]

    def image_jobs(self, download: Download | None = None) -> list[Job]:
        """The downloads, each as its last retry has it, and the shards of the sources that bring their images."""
        stage = download or self.dataset.download
        return [self.retries.latest(job, stage) for job in self.downloads(stage)] + self._ingests

    @contextmanager
    def connected(self, due: list[Job]) -> Iterator[list[Job]]:
        """The due image jobs, with the web that they ask at hand."""
        with self.dataset.connected(folder=local_folder(self.root, "small_web")) as download:
            ready = {job.shard: job for job in self.image_jobs(download)}
            yield [ready[job.shard] for job in due]

    @cached_property
    def _ingests(self) -> list[Job]:
        stage = Ingest(**self.dataset.download.config)
        sources = [source for source in self.dataset.pairs if isinstance(source, ImagePairSource)]
        return [ingest_job("images", stage, shard) for source in sources for shard in source.shards()]
