"""Detection from YOLO's layout: ``data.yaml``, folders of images, and a text file of boxes for each image."""

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipelines.sources.boxes.annotated_images import AnnotatedImages, Annotations, Box
from pipelines.sources.boxes.image_files import is_image_name
from pipelines.sources.boxes.image_index import Entry, ImageIndex, file_key, index_images
from pipelines.sources.boxes.lvis_format import NamedBox
from pipelines.sources.boxes.names import unused_note
from pipelines.sources.boxes.yolo_yaml import Part, YoloLayout, read_data_yaml
from pipelines.sources.input_files import check_inside, read_text
from schemas.manifest import canonical_json, sha256_hex
from schemas.paths import is_regular
from schemas.training import Supervision


@dataclass(frozen=True, kw_only=True)
class Yolo(AnnotatedImages):
    """A `pipelines.sources.source.BoxedSource` of supervision detection.

    The labels of ``images/a/x.jpg`` are in ``labels/a/x.txt``, or beside the image. A line is a class and, in shares of the
    image's sides, a box's centre, width and height; or the corners of a polygon, which stands for the box around it. An image
    without labels shows no object. Boxes are dropped as ``unknown_category`` (a class that has no name), ``image_missing``
    (labels without an image), and for the reasons of `AnnotatedImages`.

    Attributes:
        annotations: the ``data.yaml``.
        part: which of its lists of images.
    """

    annotations: Path
    part: Part = "train"

    name: str = "yolo"
    supervision: ClassVar[Supervision] = "detection"

    @property
    def config(self) -> dict[str, Any]:
        return {**super().config, "part": self.part}

    def read_index(self) -> ImageIndex:
        layout = read_data_yaml(self.annotations)
        places = layout.places(self.part)
        images = sorted({image for place in places for image in _images(place)})
        _check_places(layout, places, images)
        if not images:
            raise ValueError(f"{self.annotations}: there is no image in {' or '.join(map(str, places))} ({self.part})")
        top = Path(os.path.commonpath([image.parent for image in images]))
        label_of = {image: label for image in images if (label := _label_file(image)) is not None}
        _check_places(layout, places, label_of.values())
        texts = {label: read_text(label) for label in sorted(set(label_of.values()))}
        annotations = {label: parse_labels(text, layout, path=label) for label, text in texts.items()}
        orphans, others = _without_image(places, set(label_of.values()), layout)
        names = {image: image.relative_to(top).as_posix() for image in images}
        contents = {names[image]: texts[label] for image, label in label_of.items()}
        entries = (
            Entry(key=file_key(names[image]), names=(names[image],), num_boxes=found.num_boxes, handle=found)
            for image in images
            for found in [annotations[label_of[image]] if image in label_of else Annotations(boxes=[])]
        )
        used = {box.name for found in annotations.values() for box in found.boxes} | self._names_elsewhere(layout)
        unused = [name for name in layout.names.values() if name not in used]
        return index_images(
            entries,
            folders=(top,),
            digest=sha256_hex(canonical_json([sorted(layout.names.items()), contents, sorted(orphans.values())])),
            vocabulary=[name for name in layout.names.values() if name in used],
            where=self.annotations,
            num_orphans=sum(orphans.values()),
            notes=[
                *layout.notes,
                *([unused_note(unused)] if unused else []),
                *_notes(list(orphans), others, num_unlabelled=len(images) - len(label_of)),
            ],
        )

    def _names_elsewhere(self, layout: YoloLayout) -> set[str]:
        """Names with a box in the other part: what is boxed nowhere is no category, such as the root of an export."""
        places = layout.val if self.part == "train" else layout.train
        labels = sorted({label for place in places for image in _images(place) if (label := _label_file(image))})
        return {box.name for label in labels for box in parse_labels(read_text(label), layout, path=label).boxes}

    def annotate(self, handle: Annotations) -> Annotations:
        return handle


def parse_labels(text: str, layout: YoloLayout, *, path: Path) -> Annotations:
    """The boxes of a label file.

    Raises:
        ValueError: a line is neither a class with a box nor one with a polygon.
    """
    boxes: list[NamedBox] = []
    dropped: Counter[str] = Counter()
    for row, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}: row {row}, {line.strip()[:60]!r},"
        try:
            number, *numbers = map(float, line.split())
        except ValueError as error:
            raise ValueError(f"{where} is not numbers; YOLO's are: class, x, y, width, height") from error
        if not number.is_integer():
            raise ValueError(f"{where} has the class {number}; it must be a whole number")
        box = _box(numbers, has_keypoints=layout.has_keypoints)
        if box is None:
            raise ValueError(f"{where} has {1 + len(numbers)} numbers; a box has 5, a polygon of n corners 1 + 2n")
        if int(number) in layout.names:
            boxes.append(NamedBox(name=layout.names[int(number)], box_xyxy=box))
        else:
            dropped["unknown_category"] += 1
    return Annotations(boxes=boxes, dropped=dropped, is_relative=True)


def _box(numbers: Sequence[float], *, has_keypoints: bool) -> Box | None:
    """Corners, of a centre and sides (with keypoints behind it) or of a polygon's corners."""
    if len(numbers) == 4 or (has_keypoints and len(numbers) > 4):
        x, y, width, height = numbers[:4]
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if len(numbers) < 6 or len(numbers) % 2:
        return None
    if not all(map(math.isfinite, numbers)):
        return math.nan, math.nan, math.nan, math.nan
    return min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])


def _images(place: Path) -> Iterator[Path]:
    """Of a folder and all that is below it, or of a list of paths."""
    if place.is_dir():
        for folder, _, names in os.walk(place):
            yield from (Path(folder, name) for name in names if is_image_name(name))
        return
    for line in read_text(place).removeprefix("\ufeff").splitlines():
        if line.strip():
            yield Path(os.path.normpath(place.parent / line.strip().replace("\\", "/")))


def _check_places(layout: YoloLayout, places: Sequence[Path], files: Iterable[Path]) -> None:
    """Raise ValueError for a line of a list, or a link, that leads out of the folders that ``data.yaml`` names."""
    folders = [place for place in places if place.is_dir()]
    roots = [*layout.roots, *folders, *map(_label_folder, folders)]
    real = tuple(os.path.join(os.path.realpath(root), "") for root in roots)
    checked: dict[Path, bool] = {}  # folders, each once
    for file in files:
        if file.parent not in checked:
            checked[file.parent] = os.path.join(os.path.realpath(file.parent), "").startswith(real)
        if not checked[file.parent] or os.path.islink(file):
            check_inside(file, roots, where=layout.path, fix="name its folder by path: or leave it out")


def _label_file(image: Path) -> Path | None:
    """The one in the folder of the labels, or the one beside the image."""
    tried = (folder / f"{image.stem}.txt" for folder in (_label_folder(image.parent), image.parent))
    return next((path for path in tried if is_regular(path)), None)


def _label_folder(folder: Path) -> Path:
    """The same with ``labels`` for the last ``images``."""
    parts = folder.parts
    last = next((i for i in reversed(range(len(parts))) if parts[i] == "images"), None)
    return folder if last is None else Path(*parts[:last], "labels", *parts[last + 1 :])


def _without_image(places: Sequence[Path], used: set[Path], layout: YoloLayout) -> tuple[dict[Path, int], list[Path]]:
    """Label files without an image, with their boxes, and text files that hold no labels."""
    folders = {folder for place in places if place.is_dir() for folder in (place, _label_folder(place))}
    texts = {path for folder in folders for path in folder.rglob("*.txt") if not path.name.startswith(".")}
    orphans: dict[Path, int] = {}
    others: list[Path] = []
    for path in sorted(texts - used):
        try:
            orphans[path] = parse_labels(read_text(path), layout, path=path).num_boxes
        except ValueError:
            others.append(path)
    return orphans, others


def _notes(orphans: Sequence[Path], others: Sequence[Path], *, num_unlabelled: int) -> Iterator[str]:
    if orphans:
        yield f"{len(orphans):,} label files have no image, first {orphans[0]}"
    if others:
        yield f"{len(others):,} text files hold no labels, first {others[0]}"
    if num_unlabelled:
        yield f"{num_unlabelled:,} images have no label file: they show no object"
