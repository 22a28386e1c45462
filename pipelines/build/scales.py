"""Scales: named sets of sources. Where the files of one lie below a folder of the user's, and where people get them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from pipelines.sources.boxes.mdetr import Mdetr
from pipelines.sources.boxes.objects365 import Objects365
from pipelines.sources.captions.conceptual_captions import ConceptualCaptions
from pipelines.sources.captions.webdataset_mirror import WebDatasetMirror
from pipelines.sources.held_out_images import HeldOutImages, held_out_images, read_hashes
from pipelines.sources.source import BoxedSource, PairSource

Pairs = PairSource | WebDatasetMirror


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much of the embedded emoji scenes. Scales of equal shard sizes share their shards: a larger one only adds."""

    num_pairs: int
    num_detection: int
    num_grounding: int
    num_validation: int
    pairs_per_shard: int
    images_per_shard: int
    image_size_px: int = 160


DEMO = Scale(
    num_pairs=8000,
    num_detection=1200,
    num_grounding=600,
    num_validation=250,
    pairs_per_shard=1000,
    images_per_shard=400,
)
SCALES = {
    "tiny": Scale(
        num_pairs=240,
        num_detection=60,
        num_grounding=40,
        num_validation=20,
        pairs_per_shard=120,
        images_per_shard=40,
        image_size_px=96,
    ),
    "demo": DEMO,
    "demo_large": replace(DEMO, num_pairs=2 * DEMO.num_pairs),
}
# In the order of age: a scale that begins with another one only adds to it.
WEB_SCALES: dict[str, tuple[str, ...]] = {
    "cc3m": ("cc3m",),
    "cc15m": ("cc3m", "cc12m"),
    "detclipv2": ("cc3m", "cc12m", "objects365", "goldg"),
}
WEB_PAIRS_PER_SHARD = 10_000


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What a dataset is made of; the order is that of age."""

    pairs: tuple[Pairs, ...] = ()
    detection: tuple[BoxedSource, ...] = ()
    grounding: tuple[BoxedSource, ...] = ()
    held_out: HeldOutImages | None = None


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A file or folder below the folder of sources."""

    path: str
    what: str
    origin: str  # the title of the page where people get it

    def find(self, folder: Path) -> Path:
        """Its absolute path.

        Raises:
            ValueError: it is not there.
        """
        path = (folder / self.path).resolve()
        if not path.exists():
            raise ValueError(f"{folder / self.path} is missing: {self.what}; see the page {self.origin!r}")
        return path


_CONCEPTUAL = {
    "cc3m": Wanted(
        path="cc3m/Train_GCC-training.tsv",
        what="CC3M's captions and URLs (or, in its place, the .tar files of a WebDataset mirror)",
        origin="Conceptual Captions Dataset",
    ),
    "cc12m": Wanted(
        path="cc12m/cc12m.tsv",
        what="CC12M's URLs and captions (or, in its place, the .tar files of a WebDataset mirror)",
        origin="Conceptual 12M",
    ),
}
_OBJECTS365_JSON = Wanted(
    path="objects365/zhiyuan_objv2_train.json", what="the training boxes of Objects365 v2", origin="Objects365 Dataset"
)
_OBJECTS365_IMAGES = Wanted(
    path="objects365/images", what="the folder of Objects365's training images", origin="Objects365 Dataset"
)
_GOLDG_TITLE = "MDETR: Modulated Detection for End-to-End Multi-Modal Understanding (pretraining data)"
_FLICKR_JSON = Wanted(
    path="goldg/final_flickr_separateGT_train.json", what="GoldG's phrases on Flickr30k", origin=_GOLDG_TITLE
)
_FLICKR_IMAGES = Wanted(
    path="goldg/flickr30k-images", what="the folder of Flickr30k's images", origin="Flickr30K Entities"
)
_MIXED_JSON = Wanted(
    path="goldg/final_mixed_train.json", what="GoldG's phrases on Visual Genome and COCO", origin=_GOLDG_TITLE
)
_VG_IMAGES = Wanted(path="goldg/vg", what="the folder of Visual Genome's images", origin="Visual Genome")
_COCO_IMAGES = Wanted(
    path="goldg/train2014",
    what="the folder of COCO's training images of 2014",
    origin="COCO - Common Objects in Context",
)
_MINIVAL = Wanted(
    path="lvis/minival.txt",
    what="the images of LVIS minival, which are kept out of training (ids or file names, one a line)",
    origin="MDETR: evaluation on LVIS (minival image ids)",
)
# Optional: what `pipelines.sources.held_out_images.hash_images` gave for the same images, to find copies under other names.
_MINIVAL_HASHES = "lvis/minival_hashes.parquet"


@dataclass(frozen=True, kw_only=True)
class GoldgFlickr30k(Mdetr):
    """The part of GoldG with Flickr30k's images."""

    name: ClassVar[str] = "goldg_flickr30k"


@dataclass(frozen=True, kw_only=True)
class GoldgMixed(Mdetr):
    """The part of GoldG with the images of Visual Genome and COCO."""

    name: ClassVar[str] = "goldg_mixed"


def web_sources(scale: str, folder: Path, *, max_side_px: int) -> Sources:
    """The sources of one of `WEB_SCALES`.

    Args:
        scale: its name.
        folder: with the files below the names above.
        max_side_px: of images with boxes.

    Raises:
        ValueError: a file is missing; the message says what it is and where people get it.
    """
    names = WEB_SCALES[scale]
    pairs = tuple(_conceptual(name, folder) for name in names if name in _CONCEPTUAL)
    if "objects365" not in names:
        return Sources(pairs=pairs)
    held_out = _lvis_minival(folder)
    options = {"max_side_px": max_side_px, "held_out": held_out}
    return Sources(
        pairs=pairs,
        detection=(_objects365(folder, **options),),
        grounding=_goldg(folder, **options),
        held_out=held_out,
    )


def _objects365(folder: Path, **options: Any) -> Objects365:
    return Objects365(annotations=_OBJECTS365_JSON.find(folder), images=_OBJECTS365_IMAGES.find(folder), **options)


def _goldg(folder: Path, **options: Any) -> tuple[BoxedSource, ...]:
    flickr30k = GoldgFlickr30k(annotations=_FLICKR_JSON.find(folder), images=(_FLICKR_IMAGES.find(folder),), **options)
    mixed = GoldgMixed(
        annotations=_MIXED_JSON.find(folder), images=(_VG_IMAGES.find(folder), _COCO_IMAGES.find(folder)), **options
    )
    return flickr30k, mixed


def _conceptual(name: str, folder: Path) -> Pairs:
    """Its table of URLs, or its mirror."""
    wanted = _CONCEPTUAL[name]
    tars = sorted((folder / name).glob("*.tar"))
    is_table = (folder / wanted.path).exists()
    if tars and is_table:
        raise ValueError(
            f"{folder / name} has both {Path(wanted.path).name} and .tar files: move one of them elsewhere"
        )
    if tars:
        return WebDatasetMirror(path=str((folder / name / "*.tar").absolute()), name=f"{name}_wds")
    return ConceptualCaptions(path=str(wanted.find(folder)), name=name)


def _lvis_minival(folder: Path) -> HeldOutImages:
    hashes = folder / _MINIVAL_HASHES
    return held_out_images(ids=[_MINIVAL.find(folder)], hashes=read_hashes(hashes) if hashes.is_file() else None)
