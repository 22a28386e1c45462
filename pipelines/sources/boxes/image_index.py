"""Image index of an annotation file: which images are there, found before one is read; one file is one image."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pipelines.sources.boxes.image_files import ImageFile, ImageFiles, plain_name
from pipelines.sources.boxes.names import respelled_note, spellings
from pipelines.sources.held_out_images import HeldOutImages
from schemas.manifest import sha256_hex

Split = Literal["all", "train", "held_out"]
HOLD_OUT_EVERY = 5
# What becomes of several entries of one file: one image with the boxes of all, an error, or a sample each (captions).
Shared = Literal["merge", "refuse", "apart"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One image as an annotation file names it."""

    key: str  # unique within the source, sortable, no dot
    names: tuple[str, ...]  # where its file may lie, relative to the folder of the images; the likeliest first
    num_boxes: int
    handle: Any  # what the source needs to find the boxes


@dataclass(frozen=True, kw_only=True)
class ImageIndex:
    """The images whose files are there, by ascending key."""

    where: Path  # the annotations
    digest: str  # of the annotations
    keys: tuple[str, ...]
    paths: tuple[Path, ...]
    names: tuple[tuple[str, ...], ...]  # under which the annotations have each image
    num_boxes: tuple[int, ...]
    handles: tuple[tuple[Any, ...], ...]  # of every entry of the image
    vocabulary: tuple[str, ...]  # sorted, each concept in one spelling
    respelled: Mapping[str, str] = field(default_factory=dict)  # the vocabulary's spelling of names in another one
    missing: tuple[tuple[tuple[str, ...], int], ...] = ()  # names and number of boxes of each image without a file
    lost_boxes: Mapping[str, int] = field(default_factory=dict)  # of images that were left out, these too, by reason
    num_held_out: int = 0  # images, by their names
    notes: tuple[str, ...] = ()  # lines for people

    @cached_property
    def files(self) -> tuple[tuple[str, int], ...]:
        """Path and size in bytes of every image's file, as it was when this was first asked for."""
        return tuple((str(path), path.stat().st_size) for path in self.paths)

    def choose(self, *, split: Split, held_out: HeldOutImages | None) -> "ImageIndex":
        """One side of the split, less what is ``held_out`` by its name.

        The split counts files in the order of their keys, so no file is on both sides, and files that are held out by name
        count, so that both sides count alike. "train" counts all boxes, those of the other side as ``held_out``; "held_out"
        counts its own.

        Raises:
            ValueError: no image is left.
        """
        lost: Counter[str] = Counter({} if split == "held_out" else self.lost_boxes)
        chosen: list[int] = []
        gone = [
            n for names, n in self.missing if held_out is not None and split != "held_out" and held_out.has_name(names)
        ]
        num_held_out = len(gone)
        lost.update({"held_out": sum(gone), "image_missing": -sum(gone)})
        for i, names in enumerate(self.names):
            if split != "all" and (i % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1) != (split == "held_out"):
                lost["held_out"] += self.num_boxes[i] if split == "train" else 0
            elif held_out is not None and held_out.has_name(names):
                num_held_out += 1
                lost["held_out"] += self.num_boxes[i]
            else:
                chosen.append(i)
        if not chosen:
            why = f"{num_held_out:,} of them are held out" if num_held_out else f"every {HOLD_OUT_EVERY}th is held out"
            raise ValueError(f"{self.where}: none of its {len(self.keys):,} images is left: {why}")
        return replace(
            self,
            keys=tuple(self.keys[i] for i in chosen),
            paths=tuple(self.paths[i] for i in chosen),
            names=tuple(self.names[i] for i in chosen),
            num_boxes=tuple(self.num_boxes[i] for i in chosen),
            handles=tuple(self.handles[i] for i in chosen),
            lost_boxes=dict(+lost),
            num_held_out=num_held_out,
        )


# The entries of one file, by ascending key; most have one.
_Image = list[tuple[Entry, ImageFile]]


def index_images(
    entries: Iterable[Entry],
    *,
    folders: Sequence[Path],
    digest: str,
    vocabulary: Iterable[str],
    where: Path,
    what: str = "images",
    num_orphans: int = 0,
    lost_boxes: Mapping[str, int] | None = None,
    shared: Shared = "merge",
    notes: Sequence[str] = (),
) -> ImageIndex:
    """Find the files, each in any of ``folders``; leave out what is ``image_missing``.

    ``num_orphans`` boxes are of images that the annotations do not even list, ``lost_boxes`` others of no image, by reason;
    ``where``, ``what`` and ``notes`` are for people.

    Names of ``vocabulary`` that are one concept (`pipelines.sources.boxes.names`) have the spelling of the first.
    A file that several entries name is settled as ``shared`` says. Where a name was found only after folders were left out,
    or in other upper and lower case, and another entry has the file by its full name, the former's image is missing.

    Raises:
        ValueError: two entries have one key, a name leaves the folder, no image is there, or it cannot be told which of
            several entries a file is of.
    """
    ordered = sorted(entries, key=lambda entry: entry.key)
    _check_keys(ordered, where)
    spelling_of = spellings(vocabulary)
    respelled = {name: spelling for name, spelling in spelling_of.items() if name != spelling}
    images, missing = _find(ordered, ImageFiles(folders), shared=shared, where=where)
    lost = Counter(lost_boxes or {})
    lost["image_missing"] += num_orphans + sum(entry.num_boxes for entry in missing)
    absent = []
    if missing:
        folder = " or ".join(str(folder) for folder in folders)
        name = f"the first is {missing[0].names[0]!r}, looked for in {folder}"
        absent = [f"{len(missing):,} of {len(ordered):,} {what} not found; {name}"]
    if not images:
        raise ValueError(f"{where}: {absent[0] if absent else f'it has no {what}'}")
    return ImageIndex(
        where=where,
        digest=digest,
        keys=tuple(image[0][0].key for image in images),
        paths=tuple(image[0][1].path for image in images),
        names=tuple(tuple(name for entry, _ in image for name in entry.names) for image in images),
        num_boxes=tuple(sum(entry.num_boxes for entry, _ in image) for image in images),
        handles=tuple(tuple(entry.handle for entry, _ in image) for image in images),
        vocabulary=tuple(sorted(set(spelling_of.values()))),
        respelled=respelled,
        missing=tuple((entry.names, entry.num_boxes) for entry in missing),
        lost_boxes=dict(+lost),
        notes=tuple(f"{where}: {note}" for note in (*notes, *absent, *_repeated(images), *respelled_note(respelled))),
    )


def file_key(name: str) -> str:
    """A key for the name of a file: itself where it will do, else what is plain of it with a hash."""
    plain = re.sub(r"[^\w-]", "_", name, flags=re.ASCII)
    return name if plain == name and len(name) <= 80 else f"{plain[:64]}-{sha256_hex(name)[:8]}"


def _check_keys(ordered: Sequence[Entry], where: Path) -> None:
    for before, entry in itertools.pairwise(ordered):
        if before.key == entry.key:
            raise ValueError(
                f"{where}: two images, {before.names[0]!r} and {entry.names[0]!r}, have the key {entry.key!r}; "
                "each needs one of its own"
            )


def _find(
    ordered: Sequence[Entry], files: ImageFiles, *, shared: Shared, where: Path
) -> tuple[list[_Image], list[Entry]]:
    """Images in the order of their first entries, and the entries without a file."""
    found = [(entry, files.find(entry.names, where=where)) for entry in ordered]
    missing = {entry.key: entry for entry, file in found if file is None}
    by_file: dict[str, _Image] = {}
    for entry, file in found:
        if file is not None:
            by_file.setdefault(file.identity, []).append((entry, file))
    images: list[_Image] = []
    for image in by_file.values():
        rightful = _rightful(image, where=where) if len(image) > 1 else image
        keys = {entry.key for entry, _ in rightful}
        missing |= {entry.key: entry for entry, _ in image if entry.key not in keys}
        if len(rightful) > 1 and shared == "refuse":
            (one, file), (other, _) = rightful[:2]
            raise ValueError(f"{where}: {one.key} and {other.key} have one image, {file.path}: keep one of the two")
        images += [[pair] for pair in rightful] if shared == "apart" else [rightful]
    images.sort(key=lambda image: image[0][0].key)
    return images, [missing[key] for key in sorted(missing)]


def _rightful(image: _Image, *, where: Path) -> _Image:
    """The entries that a file is of, of all that led to it."""
    certain = [pair for pair in image if pair[1].is_certain]
    if certain:
        return certain
    most = max(file.num_confirmed for _, file in image)
    likely = [(entry, file) for entry, file in image if file.num_confirmed == most]
    names = {plain_name(entry.names[file.rank]): entry.names[file.rank] for entry, file in likely}
    if len(names) > 1:
        one, other = sorted(names.values())[:2]
        raise ValueError(
            f"{where}: {one!r} and {other!r} both lead to {likely[0][1].path}, each in part: give --images the folder "
            "in which both are found by their whole names"
        )
    return likely


def _repeated(images: list[_Image]) -> Iterable[str]:
    several = [image[0][1].path.name for image in images if len(image) > 1]
    if several:
        yield f"{len(several):,} images are listed more than once, first {several[0]}; each has the boxes of all its entries"
