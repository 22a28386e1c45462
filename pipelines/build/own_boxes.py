"""Source detection for a user's own boxes: which source reads a file or folder, told by what is in it."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.build.scales import Sources
from pipelines.sources.boxes.annotated_images import AnnotatedImages
from pipelines.sources.boxes.coco import Coco, Lvis
from pipelines.sources.boxes.coco_validation import CocoValidation
from pipelines.sources.boxes.coco_json import read_coco
from pipelines.sources.boxes.flickr30k_entities import Flickr30kEntities
from pipelines.sources.boxes.mdetr import Mdetr
from pipelines.sources.boxes.objects365 import Objects365
from pipelines.sources.boxes.odvg import OdvgDetection, OdvgGrounding
from pipelines.sources.boxes.pascal_voc import PascalVoc
from pipelines.sources.held_out_images import HeldOutImages, held_out_images, read_hashes

# Categories that Objects365 has in this spelling and nobody else: v1 and v2.
_OBJECTS365 = {"other shoes", "sneakers", "hamimelon"}


def own_detection(path: Path, *, images: tuple[Path, ...], **options: Any) -> AnnotatedImages:
    """The source of annotations: a Pascal-VOC folder, an ODVG file, or COCO, LVIS or Objects365 JSON.

    ``options`` are those of `pipelines.sources.boxes.annotated_images.AnnotatedImages`.
    """
    # Absolute, since workers have working directories of their own.
    options |= {"annotations": path.resolve(), "images": tuple(folder.resolve() for folder in images)}
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


def own_grounding(path: Path, *, images: tuple[Path, ...], **options: Any) -> AnnotatedImages:
    """The source of a folder of Flickr30k Entities, an ODVG file, or MDETR's JSON; ``options`` as in `own_detection`."""
    annotations, images = path.resolve(), tuple(folder.resolve() for folder in images)
    if path.is_dir():
        return Flickr30kEntities(entities=annotations, images=images, **options)
    if path.suffix.lower() == ".jsonl":
        return OdvgGrounding(annotations=annotations, images=images, **options)
    return Mdetr(annotations=annotations, images=images, **options)


def own_held_out(path: Path) -> HeldOutImages:
    """Evaluation images, from hashes (``.parquet``) or a list of COCO ids."""
    if path.suffix.lower() == ".parquet":
        return held_out_images(hashes=read_hashes(path))
    return held_out_images(ids=[path])


def own_boxes(
    *,
    detection: tuple[Path, ...],
    grounding: tuple[Path, ...],
    validation: Path | None,
    images: tuple[Path, ...],
    **options: Any,
) -> Sources:
    """Sources with boxes and the validation set, as the options of that name say; ``options`` as in `own_detection`.

    Raises:
        ValueError: there is no folder of images.
    """
    if not (detection or grounding or validation):
        return Sources()
    if not images:
        raise ValueError("--images: --detection, --grounding and --validation need the folder of their images")
    boxes = Sources(
        detection=_named(own_detection(path, images=images, **options) for path in detection),
        grounding=_named(own_grounding(path, images=images, **options) for path in grounding),
    )
    if validation is not None:
        folders = tuple(folder.resolve() for folder in images)
        source = Coco(annotations=validation.resolve(), images=folders, **{**options, "held_out": None})
        return replace(boxes, validation=CocoValidation(source=source))
    match boxes.detection:
        case (Coco() as source,):
            held_out = CocoValidation(source=replace(source, split="held_out", held_out=None))
            return replace(boxes, detection=(replace(source, split="train"),), validation=held_out)
    return boxes


def _named(sources: Iterable[AnnotatedImages]) -> tuple[AnnotatedImages, ...]:
    """The sources with distinct names: the first of a format has the format's, a further one a number behind it."""
    named: list[AnnotatedImages] = []
    counts: Counter[str] = Counter()
    for source in sources:
        counts[source.name] += 1
        number = counts[source.name]
        named.append(source if number == 1 else replace(source, name=f"{source.name}_{number}"))
    return tuple(named)
