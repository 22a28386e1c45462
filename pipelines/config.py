"""What a dataset is made of: its sources, its scale and the settings of its stages."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipelines.sources.coco import Coco, CocoValidation
from pipelines.sources.emoji_scenes import EmojiScenes
from pipelines.sources.pairs_file import PairsFile
from pipelines.sources.small_web import SmallWeb
from pipelines.sources.source import BoxedSource, PairSource, ValidationSource
from pipelines.stages.balance import Balance
from pipelines.stages.dedup import Dedup
from pipelines.stages.download import Download
from pipelines.stages.filters import Filters
from pipelines.stages.noun_phrases import NounPhrases
from pipelines.stages.opener import OpenerConfig
from pipelines.storage.roots import DataRoot

# The small web answers in milliseconds, and one URL in a thousand is made never to end.
EMOJI_SCENES_DEADLINE_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much of the embedded emoji scenes. Scales of equal shard sizes share their shards: a larger one only adds."""

    num_pairs: int
    num_detection: int
    num_grounding: int
    num_validation: int
    pairs_per_shard: int
    pictures_per_shard: int
    image_size_px: int = 160


DEMO = Scale(
    num_pairs=8000,
    num_detection=1200,
    num_grounding=600,
    num_validation=250,
    pairs_per_shard=1000,
    pictures_per_shard=400,
)
SCALES = {
    "tiny": Scale(
        num_pairs=240,
        num_detection=60,
        num_grounding=40,
        num_validation=20,
        pairs_per_shard=120,
        pictures_per_shard=40,
        image_size_px=96,
    ),
    "demo": DEMO,
    "demo_large": replace(DEMO, num_pairs=2 * DEMO.num_pairs),
}


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """One dataset: where its data comes from and what is done to it.

    Attributes:
        name: its folder under ``<root>/datasets``.
        pairs: image-text pairs, or None.
        num_pairs: how many of them; None: all.
        pairs_per_shard: rows of a shard of URLs, before any is dropped.
        detection, grounding: pictures with boxes, or None.
        pictures_per_shard: pictures of a detection or grounding shard.
        validation: the held-out set, or None.
        served: what a small web on loopback serves while pictures are downloaded; None: the real web.
    """

    name: str
    pairs: PairSource | None = None
    num_pairs: int | None = None
    pairs_per_shard: int = 2000
    detection: BoxedSource | None = None
    grounding: BoxedSource | None = None
    pictures_per_shard: int = 500
    validation: ValidationSource | None = None
    served: EmojiScenes | None = None
    download: Download = field(default_factory=Download)
    filters: Filters = field(default_factory=Filters)
    dedup: Dedup = field(default_factory=Dedup)
    noun_phrases: NounPhrases = field(default_factory=NounPhrases)
    balance: Balance = field(default_factory=Balance)

    @contextmanager
    def connected(self, *, folder: Path) -> Iterator[Download]:
        """The download stage with its web at hand; ``folder`` gets the small web's request log."""
        if self.served is None:
            yield self.download
            return
        with SmallWeb(self.served, folder=folder) as web:
            yield replace(self.download, opener=replace(self.download.opener, connect_to=web.connect_to))


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Build a training dataset: download, filter, deduplicate, parse, balance, pack.

    Without a table of one's own, the embedded emoji scenes at a scale; with one (``--urls``, ``--detection`` or both), that.
    A second run does only what is new or was changed.
    """

    scale: str = "demo"
    """How much of the embedded emoji scenes: tiny, demo or demo_large."""
    root: DataRoot = Path("outputs/data")
    """The data root with all tables, shards and datasets: a folder, or a URL such as s3://bucket/prefix."""
    name: str | None = None
    """Name of the dataset; the scale or the stem of the own file unless given."""
    urls: Path | None = None
    """Own image-text pairs: .parquet, .csv or .tsv with the columns url and caption."""
    allow_loopback: bool = False
    """Whether own URLs may point to this machine."""
    image_size: int = 320
    """Shorter side of the downloaded pictures as they are stored, in pixels; they are never enlarged."""
    detection: Path | None = None
    """Own boxes: COCO instances JSON (LVIS files will do)."""
    images: Path | None = None
    """Folder of the pictures of --detection, and of --validation."""
    validation: Path | None = None
    """COCO instances JSON of the held-out pictures; without one every fifth picture of --detection is held out."""
    max_side: int = 1333
    """Longer side of the pictures with boxes as they are stored, in pixels; they are never enlarged."""

    def dataset(self) -> DatasetConfig:
        """The dataset that the options describe.

        Raises:
            ValueError: they contradict each other, or name a file that is not there.
        """
        if self.name is not None and not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ValueError(f"--name {self.name}: letters, digits, dots, dashes and underscores only")
        if self.urls is None and self.detection is None:
            return self._emoji_scenes()
        return self._own_data()

    def _emoji_scenes(self) -> DatasetConfig:
        if self.scale not in SCALES:
            raise ValueError(f"--scale {self.scale}: there is no such scale; choose one of {', '.join(SCALES)}")
        if self.validation or self.images:
            raise ValueError("--validation and --images go with --urls or --detection")
        scale = SCALES[self.scale]
        scenes = EmojiScenes(image_size_px=scale.image_size_px)
        return DatasetConfig(
            name=self.name or self.scale,
            pairs=scenes,
            num_pairs=scale.num_pairs,
            pairs_per_shard=scale.pairs_per_shard,
            detection=scenes.detection(scale.num_detection),
            grounding=scenes.grounding(scale.num_grounding),
            pictures_per_shard=scale.pictures_per_shard,
            validation=scenes.validation(scale.num_validation),
            served=scenes,
            download=Download(
                image_size_px=scale.image_size_px, opener=OpenerConfig(deadline_s=EMOJI_SCENES_DEADLINE_S)
            ),
            filters=Filters(min_side_px=scale.image_size_px // 2),
        )

    def _own_data(self) -> DatasetConfig:
        for option, path in (("urls", self.urls), ("detection", self.detection), ("validation", self.validation)):
            if path is not None and not path.is_file():
                raise ValueError(f"--{option} {path}: there is no such file")
        own = self.urls or self.detection
        assert own is not None
        detection, validation = self._own_boxes()
        return DatasetConfig(
            name=self.name or re.sub(r"\W+", "_", own.stem),
            pairs=None if self.urls is None else PairsFile(path=self.urls),
            detection=detection,
            validation=validation,
            download=Download(image_size_px=self.image_size, opener=OpenerConfig(allow_loopback=self.allow_loopback)),
        )

    def _own_boxes(self) -> tuple[Coco | None, CocoValidation | None]:
        """Training and held-out pictures."""
        if self.detection is None and self.validation is None:
            return None, None
        if self.images is None or not self.images.is_dir():
            raise ValueError(f"--images {self.images}: --detection and --validation need the folder of their pictures")
        if self.detection is None:
            assert self.validation is not None
            return None, CocoValidation(pictures=self._coco(self.validation))
        pictures = self._coco(self.detection)
        if self.validation is not None:
            return pictures, CocoValidation(pictures=self._coco(self.validation))
        return replace(pictures, split="train"), CocoValidation(pictures=replace(pictures, split="held_out"))

    def _coco(self, annotations: Path) -> Coco:
        assert self.images is not None
        # Absolute, since workers have working directories of their own.
        return Coco(annotations=annotations.resolve(), images=self.images.resolve(), max_side_px=self.max_side)
