"""Image index of an annotation file: which images are there, found before one is read."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.sources.boxes.names import spellings
from pipelines.sources.held_out_images import HeldOutImages


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One image as an annotation file names it."""

    key: str  # unique within the source, sortable, no dot
    names: tuple[str, ...]  # where its file may lie, relative to the folder of the images; the likeliest first
    num_boxes: int
    handle: Any  # what the source needs to find the boxes


@dataclass(frozen=True, kw_only=True)
class ImageIndex:
    """The images whose files are there and that are not held out, by ascending key."""

    digest: str  # of the annotations
    keys: tuple[str, ...]
    paths: tuple[Path, ...]
    handles: tuple[Any, ...]
    vocabulary: tuple[str, ...]  # sorted, each concept in one spelling
    respelled: Mapping[str, str] = field(default_factory=dict)  # the vocabulary's spelling of names in another one
    lost_boxes: Mapping[str, int] = field(default_factory=dict)  # of images that were left out, by reason
    num_held_out: int = 0  # images


def index_images(
    entries: Iterable[Entry],
    *,
    folders: Sequence[Path],
    held_out: HeldOutImages | None,
    digest: str,
    vocabulary: Iterable[str],
    where: Path,
    what: str = "images",
    num_orphans: int = 0,
) -> ImageIndex:
    """Find the files, each in any of ``folders``; leave out what is ``image_missing`` or, by its name, ``held_out``.

    Names of ``vocabulary`` that are one concept (`pipelines.sources.boxes.names`) have the spelling of the first.
    ``num_orphans`` boxes are of images that the annotations do not even list; ``where`` and ``what`` are for errors.

    Raises:
        ValueError: two entries have one key, a name leaves the folder, or no image is left.
    """
    ordered = sorted(entries, key=lambda entry: entry.key)
    found: list[tuple[Entry, Path]] = []
    lost = Counter({"image_missing": num_orphans})
    spelling_of = spellings(vocabulary)
    num_held_out = 0
    previous = ""
    for entry in ordered:
        if entry.key == previous:
            raise ValueError(f"{where}: two images have the key {entry.key!r}; each needs one of its own")
        previous = entry.key
        if held_out is not None and held_out.has_name(entry.names):
            num_held_out += 1
            lost["held_out"] += entry.num_boxes
            continue
        path = find_image(entry.names, folders, where=where)
        if path is None:
            lost["image_missing"] += entry.num_boxes
        else:
            found.append((entry, path))
    if not found:
        folder = " or ".join(str(folder) for folder in folders)
        but = f" that is not held out ({num_held_out} are)" if num_held_out else ""
        raise ValueError(f"{where}: none of its {len(ordered)} {what}{but} is in the folder {folder}")
    return ImageIndex(
        digest=digest,
        keys=tuple(entry.key for entry, _ in found),
        paths=tuple(path for _, path in found),
        handles=tuple(entry.handle for entry, _ in found),
        vocabulary=tuple(sorted(set(spelling_of.values()))),
        respelled={name: spelling for name, spelling in spelling_of.items() if name != spelling},
        lost_boxes=dict(+lost),
        num_held_out=num_held_out,
    )


def find_image(names: Sequence[str], folders: Sequence[Path], *, where: Path) -> Path | None:
    """The first file that exists: a name as it stands, then without its leading folders, one after the other.

    Annotation files write ``images/v1/patch8/x.jpg`` or ``val2017/x.jpg`` where the folder at hand begins further down.

    Raises:
        ValueError: a name leads out of its folder.
    """
    for name in names:
        parts = PurePosixPath(name).parts
        if ".." in parts:
            raise ValueError(f"{where}: the file name {name!r} leads out of the folder of the images")
        parts = parts[1:] if parts[:1] == ("/",) else parts
        for start in range(len(parts)):
            for folder in folders:
                path = folder.joinpath(*parts[start:])
                if path.is_file():
                    return path
    return None
