"""Scales: named sets of sources. Where the files of one lie below a folder of the user's, and where people get them."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.sources.boxes.mdetr import Mdetr
from pipelines.sources.boxes.objects365 import Objects365
from pipelines.sources.captions.conceptual_captions import ConceptualCaptions
from pipelines.sources.captions.webdataset_mirror import WebDatasetMirror
from pipelines.sources.held_out_images import HeldOutImages, held_out_images, read_hashes
from pipelines.sources.source import BoxedSource, ImagePairSource, PairSource, ValidationSource

Pairs = PairSource | ImagePairSource


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
    """What a dataset is made of: images kept for evaluation, a validation set, and the rest in the order of age.

    ``notes`` are lines for people.
    """

    pairs: tuple[Pairs, ...] = ()
    detection: tuple[BoxedSource, ...] = ()
    grounding: tuple[BoxedSource, ...] = ()
    held_out: HeldOutImages | None = None
    validation: ValidationSource | None = None
    notes: tuple[str, ...] = ()


_CONCEPTUAL = {"cc3m": "cc3m/Train_GCC-training.tsv", "cc12m": "cc12m/cc12m.tsv"}
_OR_A_MIRROR = "(or, in its place, the .tar files of a WebDataset mirror)"
_OBJECTS365 = "Objects365 Dataset"
_MDETR = "MDETR: Modulated Detection for End-to-End Multi-Modal Understanding (pretraining data)"
# What the files and folders below the folder of sources are, and the title of the page where people get them.
_FILES: dict[str, tuple[str, str]] = {
    _CONCEPTUAL["cc3m"]: (f"CC3M's captions and URLs {_OR_A_MIRROR}", "Conceptual Captions Dataset"),
    _CONCEPTUAL["cc12m"]: (f"CC12M's URLs and captions {_OR_A_MIRROR}", "Conceptual 12M"),
    "objects365/zhiyuan_objv2_train.json": ("the training boxes of Objects365 v2", _OBJECTS365),
    "objects365/images": ("the folder of Objects365's training images", _OBJECTS365),
    "goldg/final_flickr_separateGT_train.json": ("GoldG's phrases on Flickr30k", _MDETR),
    "goldg/flickr30k-images": ("the folder of Flickr30k's images", "Flickr30K Entities"),
    "goldg/final_mixed_train.json": ("GoldG's phrases on Visual Genome and COCO", _MDETR),
    "goldg/vg": ("the folder of Visual Genome's images", "Visual Genome"),
    "goldg/train2014": ("the folder of COCO's training images of 2014", "COCO - Common Objects in Context"),
    "lvis/minival.txt": (
        "the images of LVIS minival, which are kept out of training (ids or file names, one a line)",
        "MDETR: evaluation on LVIS (minival image ids)",
    ),
}


@dataclass(frozen=True, kw_only=True)
class GoldgFlickr30k(Mdetr):
    """The part of GoldG with Flickr30k's images."""

    name: str = "goldg_flickr30k"


@dataclass(frozen=True, kw_only=True)
class GoldgMixed(Mdetr):
    """The part of GoldG with the images of Visual Genome and COCO."""

    name: str = "goldg_mixed"


def web_sources(scale: str, folder: Path, *, max_side_px: int) -> Sources:
    """The sources of one of `WEB_SCALES`, from a folder with the files below the names above.

    Raises:
        ValueError: a file is missing; the message says what it is and where people get it.
    """
    names = WEB_SCALES[scale]
    pairs = tuple(_conceptual(name, folder) for name in names if name in _CONCEPTUAL)
    if "objects365" not in names:
        return Sources(pairs=pairs)
    find = partial(_find, folder)
    # Optional: what `pipelines.sources.held_out_images.hash_images` gave for the same images, to find copies under other names.
    hashes = folder / "lvis/minival_hashes.parquet"
    held_out = held_out_images(ids=[find("lvis/minival.txt")], hashes=read_hashes(hashes) if hashes.is_file() else None)
    options: dict[str, Any] = {"max_side_px": max_side_px, "held_out": held_out}
    annotations, images = find("objects365/zhiyuan_objv2_train.json"), find("objects365/images")
    objects365 = Objects365(annotations=annotations, images=(images,), **options)
    annotations, images = find("goldg/final_flickr_separateGT_train.json"), find("goldg/flickr30k-images")
    flickr30k = GoldgFlickr30k(annotations=annotations, images=(images,), **options)
    annotations, folders = find("goldg/final_mixed_train.json"), (find("goldg/vg"), find("goldg/train2014"))
    mixed = GoldgMixed(annotations=annotations, images=folders, **options)
    return Sources(pairs=pairs, detection=(objects365,), grounding=(flickr30k, mixed), held_out=held_out)


def _find(folder: Path, name: str) -> Path:
    """The absolute path of one of `_FILES`; raises ValueError where it is missing."""
    path = (folder / name).resolve()
    if not path.exists():
        what, page = _FILES[name]
        raise ValueError(f"{folder / name} is missing: {what}; see the page {page!r}")
    return path


def _conceptual(name: str, folder: Path) -> Pairs:
    """Its table of URLs, or its mirror."""
    wanted = _CONCEPTUAL[name]
    tars = sorted((folder / name).glob("*.tar"))
    is_table = (folder / wanted).exists()
    if tars and is_table:
        raise ValueError(f"{folder / name} has both {Path(wanted).name} and .tar files: move one of them elsewhere")
    if tars:
        return WebDatasetMirror(path=str((folder / name / "*.tar").absolute()), name=f"{name}_wds")
    return ConceptualCaptions(path=str(_find(folder, wanted)), name=name)
