"""Source detection for a user's own data: which source reads a file or folder, told by what is in it."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.build.scales import Pairs, Sources
from pipelines.sources.boxes.coco import Coco, CocoValidation, Lvis
from pipelines.sources.boxes.coco_json import read_coco
from pipelines.sources.boxes.flickr30k_entities import Flickr30kEntities
from pipelines.sources.boxes.mdetr import Mdetr
from pipelines.sources.boxes.objects365 import Objects365
from pipelines.sources.boxes.odvg import OdvgDetection, OdvgGrounding
from pipelines.sources.boxes.pascal_voc import PascalVoc
from pipelines.sources.captions.conceptual_captions import ConceptualCaptions
from pipelines.sources.captions.laion_parquet import LaionParquet
from pipelines.sources.captions.pairs_file import PairsFile
from pipelines.sources.captions.webdataset_mirror import WebDatasetMirror
from pipelines.sources.held_out_images import HeldOutImages, held_out_images, read_hashes
from pipelines.sources.source import BoxedSource

_URL = re.compile(r"https?://\S+", re.IGNORECASE)
# Categories that Objects365 has in this spelling and nobody else: v1 and v2.
_OBJECTS365 = {"other shoes", "sneakers", "hamimelon"}


def slug(path: Path) -> str:
    """A file's or folder's name as that of a source or dataset: letters, digits and underscores."""
    return re.sub(r"\W+", "_", path.stem)


def own_pairs(path: Path) -> Pairs:
    """The source of a table of pairs, of a folder of Parquet files, or of WebDataset tars.

    Raises:
        ValueError: a folder that holds neither.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        suffix = next((found for found in (".parquet", ".tar") if any(path.rglob(f"*{found}"))), "")
        if not suffix:
            raise ValueError(f"--urls {path}: the folder has neither .parquet nor .tar files")
    options: dict[str, Any] = {"path": str(path.resolve()), "name": slug(path)}
    if suffix == ".parquet":
        return LaionParquet(**options)
    if suffix == ".tar":
        return WebDatasetMirror(**options)
    if suffix == ".tsv" and not _has_header(path):
        return ConceptualCaptions(**options)
    return PairsFile(path=path)


def own_detection(path: Path, *, images: Path, **options: Any) -> BoxedSource:
    """The source of annotations: a Pascal-VOC folder, an ODVG file, or COCO, LVIS or Objects365 JSON.

    ``options`` are those of `pipelines.sources.boxes.annotated_images.AnnotatedImages`.
    """
    # Absolute, since workers have working directories of their own.
    options |= {"annotations": path.resolve(), "images": images.resolve()}
    if path.is_dir():
        return PascalVoc(**options)
    if path.suffix.lower() == ".jsonl":
        return OdvgDetection(**options)
    coco = read_coco(path.resolve(), "all")
    if {category.name.lower() for category in coco.categories.values()} >= _OBJECTS365:
        return Objects365(**options)
    if coco.images and all(image.absent is not None for image in coco.images):
        return Lvis(**options)
    return Coco(**options)


def own_grounding(path: Path, *, images: Path, **options: Any) -> BoxedSource:
    """The source of a folder of Flickr30k Entities, an ODVG file, or MDETR's JSON; ``options`` as in `own_detection`."""
    annotations, images = path.resolve(), images.resolve()
    if path.is_dir():
        return Flickr30kEntities(entities=annotations, images=images, **options)
    if path.suffix.lower() == ".jsonl":
        return OdvgGrounding(annotations=annotations, images=images, **options)
    return Mdetr(annotations=annotations, images=(images,), **options)


def own_held_out(path: Path) -> HeldOutImages:
    """Evaluation images, from hashes (``.parquet``) or a list of COCO ids."""
    if path.suffix.lower() == ".parquet":
        return held_out_images(hashes=read_hashes(path))
    return held_out_images(ids=[path])


def own_boxes(
    *, detection: Path | None, grounding: Path | None, validation: Path | None, images: Path | None, **options: Any
) -> Sources:
    """Sources with boxes and the validation set, as the options of that name say; ``options`` as in `own_detection`.

    Raises:
        ValueError: there is no folder of images.
    """
    if not (detection or grounding or validation):
        return Sources()
    if images is None or not images.is_dir():
        raise ValueError(
            f"--images {images}: --detection, --grounding and --validation need the folder of their images"
        )
    boxes = Sources(
        detection=() if detection is None else (own_detection(detection, images=images, **options),),
        grounding=() if grounding is None else (own_grounding(grounding, images=images, **options),),
    )
    if validation is not None:
        source = Coco(annotations=validation.resolve(), images=images.resolve(), **{**options, "held_out": None})
        return replace(boxes, validation=CocoValidation(source=source))
    match boxes.detection:
        case (Coco() as source,):
            held_out = CocoValidation(source=replace(source, split="held_out", held_out=None))
            return replace(boxes, detection=(replace(source, split="train"),), validation=held_out)
    return boxes


def _has_header(path: Path) -> bool:
    """Whether the first line names columns: that of Conceptual Captions is a pair."""
    with path.open(encoding="utf-8", errors="replace") as file:
        line = file.readline(65_536).rstrip("\r\n")
    return not any(_URL.fullmatch(field) for field in (line.partition("\t")[0], line.rpartition("\t")[2]))
