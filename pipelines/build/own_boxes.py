"""Source detection for a user's own boxes: which source reads a file or folder, told by what is in it."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.build.scales import Sources
from pipelines.sources.boxes.annotated_images import AnnotatedImages, index_of
from pipelines.sources.boxes.coco import Coco, Lvis
from pipelines.sources.boxes.coco_json import read_coco
from pipelines.sources.boxes.coco_validation import CocoValidation
from pipelines.sources.boxes.flickr30k_entities import Flickr30kEntities
from pipelines.sources.boxes.image_index import HOLD_OUT_EVERY
from pipelines.sources.boxes.mdetr import Mdetr
from pipelines.sources.boxes.names import concept_key
from pipelines.sources.boxes.objects365 import Objects365
from pipelines.sources.boxes.odvg import OdvgDetection, OdvgGrounding
from pipelines.sources.boxes.pascal_voc import PascalVoc
from pipelines.sources.boxes.yolo import Yolo
from pipelines.sources.boxes.yolo_yaml import find_data_yaml, read_data_yaml
from pipelines.sources.held_out_images import HeldOutImages, held_out_images, read_hashes
from pipelines.storage import format_counts
from schemas.paths import absolute

# Categories that Objects365 has in this spelling and nobody else: v1 and v2.
_OBJECTS365 = {"other shoes", "sneakers", "hamimelon"}


def own_detection(path: Path, *, images: tuple[Path, ...], **options: Any) -> AnnotatedImages:
    """The source of annotations: YOLO's data.yaml, a Pascal-VOC folder, an ODVG file, or COCO, LVIS or Objects365 JSON.

    ``options`` are those of `pipelines.sources.boxes.annotated_images.AnnotatedImages`.

    Raises:
        ValueError: it cannot be read, or is none of these.
    """
    data_yaml = find_data_yaml(path)
    if data_yaml is not None:
        return Yolo(annotations=absolute(data_yaml), **options)
    if not images:
        raise ValueError(f"--images: {path} needs the folder of its images")
    # Absolute, since workers have working directories of their own.
    options |= {"annotations": absolute(path), "images": tuple(map(absolute, images))}
    if path.is_dir():
        return PascalVoc(**options)
    if path.suffix.lower() == ".jsonl":
        return OdvgDetection(**options)
    coco = read_coco(absolute(path))
    if {concept_key(name) for name in coco.names} >= _OBJECTS365:
        return Objects365(**options)
    if coco.images and all(image.absent is not None for image in coco.images):
        return Lvis(**options)
    return Coco(**options)


def own_grounding(path: Path, *, images: tuple[Path, ...], **options: Any) -> AnnotatedImages:
    """The source of a folder of Flickr30k Entities, an ODVG file, or MDETR's JSON; ``options`` as in `own_detection`."""
    if not images:
        raise ValueError(f"--images: {path} needs the folder of its images")
    annotations, images = absolute(path), tuple(map(absolute, images))
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
    held_out: HeldOutImages | None,
    **options: Any,
) -> Sources:
    """Sources with boxes and the validation set, as the options of that name say; ``options`` as in `own_detection`.

    Without ``validation`` it is what YOLO's ``val`` names, and every fifth image of COCO, LVIS, Objects365 and YOLO without
    ``val``. Its images, and those with the same bytes, are held out of all other data.

    Raises:
        ValueError: a file is given twice, there is no folder of images, or a source or the validation set has no box.
    """
    for option, paths in (("--detection", detection), ("--grounding", grounding)):
        twice = [path for path, count in Counter(map(absolute, paths)).items() if count > 1]
        if twice:
            raise ValueError(f"{option} {twice[0]}: it is given twice")
    trained = _named(own_detection(path, images=images, **options) for path in detection)
    grounded = _named(own_grounding(path, images=images, **options) for path in grounding)
    kept: tuple[AnnotatedImages, ...] = ()
    notes: list[str] = []
    if validation is not None:
        kept = (_validation(own_detection(validation, images=images, **options)),)
    else:
        parts = [_held_out_part(source) for source in trained]
        trained = tuple(source for source, _, _ in parts)
        kept = tuple(part for _, part, _ in parts if part is not None)
        notes = [note for _, _, note in parts if note]
    for source in (*trained, *grounded, *kept):
        _check_boxes(source)
    validation_set = CocoValidation(sources=kept) if kept else None
    if validation_set is not None:
        held_out = replace(held_out or HeldOutImages(), files=validation_set.files())
    return Sources(
        detection=tuple(replace(source, held_out=held_out) for source in trained),
        grounding=tuple(replace(source, held_out=held_out) for source in grounded),
        held_out=held_out,
        validation=validation_set,
        notes=tuple(notes),
    )


def _validation(source: AnnotatedImages) -> AnnotatedImages:
    """What a source has for validation: all of it, but for YOLO, whose file names a part of it."""
    if isinstance(source, Yolo) and read_data_yaml(source.annotations).val:
        return replace(source, part="val")
    return source


def _held_out_part(source: AnnotatedImages) -> tuple[AnnotatedImages, AnnotatedImages | None, str]:
    """What is left of a source for training, what of it is held out, and a line for people where nothing can be."""
    validation = _validation(source)
    if validation != source:
        return source, validation, ""
    if not isinstance(source, Coco | Yolo):
        return source, None, ""
    if len(source) < HOLD_OUT_EVERY:
        few = f"{len(source)} image{'s' * (len(source) > 1)}, fewer than {HOLD_OUT_EVERY}: none is held out"
        return source, None, f"{index_of(source).where}: {few}; training has no validation unless --validation is given"
    return replace(source, split="train"), replace(source, split="held_out"), ""


def _check_boxes(source: AnnotatedImages) -> None:
    """Raise ValueError where no box is of an image that is there: nothing needs to run to know that."""
    index = index_of(source)
    if not sum(index.num_boxes):
        num_lost = sum(index.lost_boxes.values())
        lost = f"none of its {num_lost:,} boxes is of an image that is there ({format_counts(index.lost_boxes)})"
        raise ValueError(f"{index.where}: {lost if num_lost else 'there is no box for the images that are there'}")


def _named(sources: Iterable[AnnotatedImages]) -> tuple[AnnotatedImages, ...]:
    """The sources with distinct names: the first of a format has the format's, a further one a number behind it."""
    named: list[AnnotatedImages] = []
    counts: Counter[str] = Counter()
    for source in sources:
        counts[source.name] += 1
        number = counts[source.name]
        named.append(source if number == 1 else replace(source, name=f"{source.name}_{number}"))
    return tuple(named)
