"""Detection from folders of images and Pascal-VOC XML: one XML an image."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

from pipelines.sources.boxes.annotated_images import AnnotatedImages, Annotations
from pipelines.sources.boxes.image_files import ANY_ENDING, is_image_name
from pipelines.sources.boxes.image_index import Entry, ImageIndex, file_key, index_images
from pipelines.sources.boxes.lvis_format import NamedBox
from pipelines.sources.boxes.names import spaced
from pipelines.sources.boxes.voc_xml import VocAnnotation, read_voc_xml
from pipelines.sources.input_files import check_inside, read_text
from schemas.manifest import canonical_json, sha256_hex
from schemas.training import Supervision


@dataclass(frozen=True, kw_only=True)
class PascalVoc(AnnotatedImages):
    """A `pipelines.sources.source.BoxedSource` of supervision detection.

    An image is looked for by the name of the XML, with any ending, then by ``<filename>``, which some tools copy from a
    template. Two XML files of one image are an error. Truncated objects are kept. Boxes are dropped as ``difficult``,
    ``no_box``, and for the reasons of `AnnotatedImages`.

    Attributes:
        annotations: folder of the XML files (``Annotations``), with all that is below it.
        images: folders of the images (``JPEGImages``); may be the same.
        image_set: a list of XML names without ending, one a line (``ImageSets/Main/train.txt``); None: all.
        difficult: what becomes of objects marked as hard to recognize; VOC's evaluation leaves them out.
    """

    annotations: Path
    images: tuple[Path, ...]
    image_set: Path | None = None
    difficult: Literal["drop", "keep"] = "drop"

    name: str = "pascal_voc"
    supervision: ClassVar[Supervision] = "detection"

    @property
    def config(self) -> dict[str, Any]:
        return {**super().config, "difficult": self.difficult}

    def read_index(self) -> ImageIndex:
        paths, hidden = self._paths()
        files = {stem: read_voc_xml(path) for stem, path in paths.items()}
        entries = (
            Entry(key=file_key(stem), names=_names(stem, file.file_name), num_boxes=len(file.objects), handle=file)
            for stem, file in files.items()
        )
        return index_images(
            entries,
            folders=self.images,
            digest=sha256_hex(canonical_json({stem: file.text for stem, file in files.items()})),
            vocabulary=(spaced(item.names[0]) for file in files.values() for item in file.objects),
            where=self.annotations,
            shared="refuse",
            notes=[f"{len(hidden):,} hidden .xml files are not read, first {hidden[0]}"] if hidden else [],
        )

    def annotate(self, handle: VocAnnotation) -> Annotations:
        boxes: list[NamedBox] = []
        dropped: Counter[str] = Counter()
        unboxed: list[str] = []
        for item in handle.objects:
            name = spaced(item.names[0])
            if item.is_difficult and self.difficult == "drop":
                reason = "difficult"
            elif item.box_xyxy is None:
                reason = "no_box"
            elif item.is_empty:
                reason = "box_empty"
            else:
                boxes.append(NamedBox(name=name, box_xyxy=item.box_xyxy))
                continue
            dropped[reason] += 1
            unboxed.append(name)
        return Annotations(boxes=boxes, dropped=dropped, size_px=handle.size_px, unboxed=tuple(unboxed))

    def _paths(self) -> tuple[dict[str, Path], list[str]]:
        """XML files by path without ending, relative to the folder; and the hidden ones, which a Mac puts into archives."""
        listed: dict[str, Path] = {}
        hidden: list[str] = []
        for path in sorted(path for path in self.annotations.rglob("*") if path.suffix.lower() == ".xml"):
            name = path.relative_to(self.annotations)
            stem = name.as_posix()[: -len(path.suffix)]
            if any(part.startswith(".") or part == "__MACOSX" for part in name.parts):
                hidden.append(name.as_posix())
            elif stem in listed:
                raise ValueError(
                    f"{self.annotations} has both {listed[stem].name} and {path.name}: keep one of the two"
                )
            else:
                listed[stem] = path
        if self.image_set is not None:  # VOC's lists of one class have a second column: -1, 0 or 1
            stems = {line.split()[0] for line in read_text(self.image_set).splitlines() if line.strip()}
            listed = {stem: listed.get(stem, self.annotations / f"{stem}.xml") for stem in sorted(stems)}
        if not listed:
            raise ValueError(f"{self.image_set or self.annotations} has no Pascal-VOC XML")
        for path in listed.values():
            check_inside(path, [self.annotations], where=self.image_set or self.annotations)
        return listed, hidden


def _names(stem: str, file_name: str | None) -> tuple[str, ...]:
    """Where the image of an XML file may lie. ``file_name`` comes first where it is the XML's own but for the ending."""
    own = stem + ANY_ENDING
    if file_name is None:
        return (own,)
    if not is_image_name(PurePosixPath(file_name.replace("\\", "/")).name):
        return own, file_name, file_name + ANY_ENDING
    is_own = PurePosixPath(file_name.replace("\\", "/")).stem == PurePosixPath(f"{stem}.xml").stem
    return (file_name, own) if is_own else (own, file_name)
