"""Build configuration: a dataset's sources, its scale and the settings of its stages."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pipelines.build.checks import Limits
from pipelines.build.own_boxes import own_boxes, own_held_out
from pipelines.build.own_pairs import own_captions, own_pairs, slug
from pipelines.build.scales import SCALES, WEB_PAIRS_PER_SHARD, WEB_SCALES, Pairs, Sources, web_sources
from pipelines.fetch.download import Download
from pipelines.fetch.http_client import HttpConfig
from pipelines.sources.boxes.annotated_images import AnnotatedImages
from pipelines.sources.boxes.coco_validation import CocoValidation
from pipelines.sources.boxes.yolo_yaml import FILE_NAMES
from pipelines.sources.emoji_scenes import EmojiScenes
from pipelines.sources.held_out_images import HeldOutImages
from pipelines.sources.small_web import SmallWeb
from pipelines.sources.source import BoxedSource, ValidationSource
from pipelines.stages.balance import Balance
from pipelines.stages.dedup import Dedup
from pipelines.stages.filter_presets import PRESETS
from pipelines.stages.filters import Filters
from pipelines.stages.noun_phrases import NounPhrases
from pipelines.storage.roots import DataRoot, data_root, local_folder

# The small web answers in milliseconds, and one URL in a thousand is made never to end.
EMOJI_SCENES_DEADLINE_S = 5.0


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """One dataset: where its data comes from and what is done to it.

    Attributes:
        name: its folder under ``<root>/datasets``.
        pairs: sources of image-text pairs, the oldest first: of two pairs with one image the older source's stays.
        num_pairs: how many of each source's; None: all.
        pairs_per_shard: rows of a shard of URLs, before any is dropped.
        detection, grounding: sources of images with boxes.
        held_out: images kept for evaluation, which no training data may show; None: none are named.
        images_per_shard: images of a detection or grounding shard.
        validation: the held-out set, or None.
        served: what a small web on loopback serves while images are downloaded; None: the real web.
        limits: what fails the build.
        notes: lines for people on the choice of sources.

    Raises:
        ValueError: two sources have one name, or a name has a dash, which in a shard's name ends that of its source.
    """

    name: str
    pairs: tuple[Pairs, ...] = ()
    num_pairs: int | None = None
    pairs_per_shard: int = 2000
    detection: tuple[BoxedSource, ...] = ()
    grounding: tuple[BoxedSource, ...] = ()
    held_out: HeldOutImages | None = None
    images_per_shard: int = 500
    validation: ValidationSource | None = None
    served: EmojiScenes | None = None
    download: Download = field(default_factory=Download)
    filters: Filters = field(default_factory=Filters)
    dedup: Dedup = field(default_factory=Dedup)
    noun_phrases: NounPhrases = field(default_factory=NounPhrases)
    balance: Balance = field(default_factory=Balance)
    limits: Limits = field(default_factory=Limits)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for sources in (self.pairs, self.detection, self.grounding):
            names = [source.name for source in sources]
            bad = [name for name in names if "-" in name or names.count(name) > 1]
            if bad:
                raise ValueError(f"the source name {bad[0]!r} has a dash or is there twice: rename its file or folder")

    def all_notes(self) -> list[str]:
        """Lines for people, those of the sources too, each once."""
        kept = self.validation.sources if isinstance(self.validation, CocoValidation) else ()
        sources = [s for s in (*self.detection, *self.grounding, *kept) if isinstance(s, AnnotatedImages)]
        return list(dict.fromkeys([*self.notes, *(note for source in sources for note in source.notes)]))

    @contextmanager
    def connected(self, *, folder: Path) -> Iterator[Download]:
        """The download stage with its web at hand; ``folder`` gets the small web's request log."""
        if self.served is None:
            yield self.download
            return
        with SmallWeb(self.served, folder=folder) as web:
            yield replace(self.download, http=replace(self.download.http, connect_to=web.connect_to))


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Build a training dataset: download, filter, deduplicate, parse, balance, pack.

    Of a scale, or with --urls, --detection or --grounding of data of one's own. A second run does only what is new or was
    changed; a larger scale keeps all that a smaller one made.
    """

    scale: str = "demo"
    """tiny, demo, demo_large: the embedded emoji scenes. cc3m, cc15m, detclipv2: files below --sources."""
    sources: Path | None = None
    """Folder of the files of cc3m, cc15m or detclipv2, as docs/scales.md names them."""
    root: DataRoot = Path("outputs/data")
    """The data root with all tables, shards and datasets: a folder, or a URL such as s3://bucket/prefix."""
    name: str | None = None
    """Name of the dataset; the scale or the stem of the own file unless given."""
    urls: tuple[Path, ...] = ()
    """Own pairs: .parquet, .csv, .tsv (quoted as csv does) or .jsonl of url and caption, or folders of .parquet or .tar."""
    captions: tuple[Path, ...] = ()
    """Own images with captions: a folder with captions.txt, a table of file names and captions, or COCO captions .json."""
    allow_loopback: bool = False
    """Whether own URLs may point to this machine."""
    image_size: int = 320
    """Shorter side of the downloaded images as they are stored, in pixels; they are never enlarged."""
    detection: tuple[Path, ...] = ()
    """Own boxes with names: COCO, LVIS or Objects365 .json, ODVG .jsonl, folders of Pascal-VOC .xml, or YOLO's data.yaml."""
    grounding: tuple[Path, ...] = ()
    """Own boxes with phrases: ODVG .jsonl, MDETR .json, or a folder of Flickr30k Entities."""
    images: tuple[Path, ...] = ()
    """Folders of the images of --captions, --detection, --grounding and --validation; YOLO's data.yaml has its own."""
    validation: Path | None = None
    """Held-out images, as --detection; without them YOLO's val, or every fifth image of a --detection .json or .yaml."""
    held_out: Path | None = None
    """Evaluation images to keep out of own training data: COCO ids (.json, .txt) or hashes (.parquet)."""
    filters: Literal["datacomp", "laion", "filip"] = "datacomp"
    """Whose rules choose among own pairs and those of the web."""
    robots: Literal["obey", "ignore"] = "obey"
    """What a host's robots.txt says of its images."""
    contact_url: str = ""
    """Sent with every request, so that a host can ask what is going on."""
    max_side: int = 1333
    """Longer side of the images with boxes as they are stored, in pixels; they are never enlarged."""
    limits: Limits = field(default_factory=Limits)

    def dataset(self) -> DatasetConfig:
        """The dataset that the options describe.

        Raises:
            ValueError: they contradict each other, or name a file that is not there.
        """
        if self.name is not None and not re.fullmatch(r"\w[\w.-]{0,99}", self.name, re.ASCII):
            raise ValueError(
                f"--name {self.name!r:.120}: at most 100 letters, digits, dots, dashes and underscores, no dot at the beginning"
            )
        if self.urls or self.captions or self.detection or self.grounding or self.validation:
            return self._own_data()
        if self.scale not in SCALES.keys() | WEB_SCALES.keys():
            names = ", ".join([*SCALES, *WEB_SCALES])
            raise ValueError(f"--scale {self.scale}: there is no such scale; choose one of {names}")
        if self.images or self.held_out:
            raise ValueError(
                "--images and --held-out go with --urls, --captions, --detection, --grounding or --validation"
            )
        return self._web_scale() if self.scale in WEB_SCALES else self._emoji_scenes()

    def _emoji_scenes(self) -> DatasetConfig:
        scale = SCALES[self.scale]
        scenes = EmojiScenes(image_size_px=scale.image_size_px)
        return DatasetConfig(
            name=self.name or self.scale,
            pairs=(scenes,),
            num_pairs=scale.num_pairs,
            pairs_per_shard=scale.pairs_per_shard,
            detection=(scenes.detection(scale.num_detection),),
            grounding=(scenes.grounding(scale.num_grounding),),
            images_per_shard=scale.images_per_shard,
            validation=scenes.validation(scale.num_validation),
            served=scenes,
            download=Download(image_size_px=scale.image_size_px, http=HttpConfig(deadline_s=EMOJI_SCENES_DEADLINE_S)),
            filters=Filters(min_side_px=scale.image_size_px // 2),
            noun_phrases=self._noun_phrases,
            limits=self.limits,
        )

    def _web_scale(self) -> DatasetConfig:
        if self.sources is None or not self.sources.is_dir():
            raise ValueError(f"--sources {self.sources}: --scale {self.scale} needs the folder of its files")
        found = web_sources(self.scale, self.sources, max_side_px=self.max_side)
        return self._dataset(self.scale, found, pairs_per_shard=WEB_PAIRS_PER_SHARD)

    def _dataset(self, default_name: str, sources: Sources, **options: Any) -> DatasetConfig:
        """Of sources that are not embedded, with the stages that the options describe."""
        http = HttpConfig(allow_loopback=self.allow_loopback, robots=self.robots, contact_url=self.contact_url)
        return DatasetConfig(
            name=self.name or default_name,
            download=Download(image_size_px=self.image_size, http=http),
            filters=PRESETS[self.filters].filters,
            dedup=PRESETS[self.filters].dedup,
            noun_phrases=self._noun_phrases,
            limits=self.limits,
            **vars(sources),
            **options,
        )

    @property
    def _noun_phrases(self) -> NounPhrases:
        """Captions that were parsed are remembered, for other shards and settings."""
        return NounPhrases(cache=local_folder(data_root(self.root), "phrase_cache"))

    def _own_data(self) -> DatasetConfig:
        own = (*self.urls, *self.captions, *self.detection, *self.grounding)
        self._check_paths()
        held_out = None if self.held_out is None else own_held_out(self.held_out)
        boxes = own_boxes(
            detection=self.detection,
            grounding=self.grounding,
            validation=self.validation,
            images=self.images,
            max_side_px=self.max_side,
            held_out=held_out,
        )
        pairs = (
            *(own_pairs(path, images=self.images) for path in self.urls),
            *(own_captions(path, images=self.images) for path in self.captions),
        )
        first = next(filter(None, (*own, self.validation)))
        name = slug(first.parent.resolve() if first.name in FILE_NAMES else first)
        return self._dataset(name, replace(boxes, pairs=pairs))

    def _check_paths(self) -> None:
        """Raise ValueError where one of the own files and folders is not there."""
        for option in ("urls", "captions", "detection", "grounding", "images", "validation", "held_out"):
            given = getattr(self, option)
            for path in given if isinstance(given, tuple) else filter(None, [given]):
                what, is_there = "file or folder", path.exists()
                if option == "images":
                    what, is_there = "folder", path.is_dir()
                elif option == "held_out":
                    what, is_there = "file", path.is_file()
                if not is_there:
                    raise ValueError(f"--{option.replace('_', '-')} {path}: there is no such {what}")
