"""Image files found by the names that annotation files give them, whoever wrote the names on whatever system."""

import contextlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

# A name that ends with this stands for a file of this stem with any of the endings below, in their order.
ANY_ENDING = ".*"
IMAGE_ENDINGS = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".jfif", ".jpe", ".jp2", ".mpo"),
    *(".apng", ".dib", ".tga", ".ppm", ".pgm", ".pbm", ".pnm", ".qoi"),
)

Parts = tuple[str, ...]
_UNUSUAL = frozenset("\\%?#")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFile:
    """A file, and how a name led to it.

    Attributes:
        path: below one of the folders of the images.
        identity: the same for every path to this file.
        folder: that folder.
        stripped: leading folders of the name that were left out.
        is_spelled: its name is the one looked for but for Unicode's normal form; False: upper and lower case differ.
        rank: how many likelier names were looked for in vain.
    """

    path: Path
    identity: str
    folder: Path
    stripped: Parts
    is_spelled: bool
    rank: int

    @property
    def num_confirmed(self) -> int:
        """How many of the folders that were left out end the path of the folder of the images."""
        pairs = zip(reversed(self.stripped), reversed(self.folder.parts), strict=False)
        return next((i for i, (left_out, part) in enumerate(pairs) if left_out != part), len(self.stripped))

    @property
    def is_certain(self) -> bool:
        """Whether nothing of the name speaks against this file."""
        return self.is_spelled and self.rank == 0 and self.num_confirmed == len(self.stripped)


class ImageFiles:
    """Files below the folders of images. Each folder that a name leads to is listed once, when it is first needed."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        self._listings = [_Listing(folder) for folder in self.folders]

    def find(self, names: Sequence[str], *, where: Path) -> ImageFile | None:
        """The file of the first name that has one.

        A name is tried whole, then without its leading folders, one after the other: annotation files write
        ``images/v1/patch8/x.jpg`` where the folder at hand begins further down. At each step it is tried as it stands; with
        slashes for backslashes; with the path in Label Studio's ``?d=``; without query and fragment; without
        percent-encoding; then all of these again in any Unicode normal form and any case, where only one file fits.

        A name is never a path of the system: a slash at its beginning is none of its folders, and a file that a link leads to
        must lie below one of the folders of the images.

        Raises:
            ValueError: a name or a link leads out of the folders, or a folder cannot be listed.
        """
        for rank, name in enumerate(names):
            spellings = _spellings(name, where=where)
            for start in range(max(map(len, spellings), default=0)):
                tried = [(parts[:start], parts[start:]) for parts in spellings if len(parts) > start]
                for folded in (False, True):
                    found = next(self._files(tried, folded=folded, rank=rank), None)
                    if found is not None:
                        self._check(found, name, where=where)
                        return found
        return None

    def _check(self, file: ImageFile, name: str, *, where: Path) -> None:
        if not any(file.identity.startswith(real) for real in self._real):
            raise ValueError(
                f"{where}: the file name {name!r} leads to a link out of the folder of the images, {file.path} to "
                f"{file.identity}: give --images the folder that it leads to, too, or leave it out"
            )

    @cached_property
    def _real(self) -> tuple[str, ...]:
        """The folders, links followed, each with a slash at its end."""
        return tuple(os.path.join(os.path.realpath(folder), "") for folder in self.folders)

    def _files(self, tried: Sequence[tuple[Parts, Parts]], *, folded: bool, rank: int) -> Iterator[ImageFile]:
        """Of names cut in two, the files that the second parts lead to."""
        for stripped, parts in tried:
            for folder, top in zip(self.folders, self._listings, strict=True):
                listing: _Listing | None = top
                for part in parts[:-1]:
                    listing = None if listing is None else listing.subfolder(part, folded=folded)
                name = None if listing is None else listing.file(parts[-1], folded=folded)
                if listing is not None and name is not None:
                    yield ImageFile(
                        path=listing.path / name,
                        identity=listing.identity(name),
                        folder=folder,
                        stripped=stripped,
                        is_spelled=not folded or _is_spelled(parts, (*listing.path.relative_to(folder).parts, name)),
                        rank=rank,
                    )


class _Listing:
    """The files and folders in a folder, read when they are first asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._subfolders: dict[str, _Listing] = {}

    @cached_property
    def _entries(self) -> tuple[dict[str, bool], dict[str, bool]]:
        """Files, then folders, by name; whether each is a link."""
        files: dict[str, bool] = {}
        folders: dict[str, bool] = {}
        try:
            with os.scandir(self.path) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):  # a loop of links is neither
                        if entry.is_dir():
                            folders[entry.name] = entry.is_symlink()
                        elif entry.is_file():
                            files[entry.name] = entry.is_symlink()
        except OSError as error:
            raise ValueError(f"the folder {self.path} cannot be listed: {error}") from error
        return files, folders

    @cached_property
    def _real(self) -> str:
        return os.path.realpath(self.path)

    @cached_property
    def _folded_files(self) -> dict[str, list[str]]:
        return _by(_fold, self._entries[0])

    @cached_property
    def _folded_folders(self) -> dict[str, list[str]]:
        return _by(_fold, self._entries[1])

    @cached_property
    def _stems(self) -> dict[str, list[str]]:
        """Images by folded stem, the likeliest ending first."""
        images = [name for name in sorted(self._entries[0]) if is_image_name(name)]
        images.sort(key=lambda name: IMAGE_ENDINGS.index(PurePosixPath(name).suffix.lower()))
        return _by(lambda name: _fold(PurePosixPath(name).stem), images)

    def identity(self, file_name: str) -> str:
        is_link = self._entries[0][file_name]
        return os.path.realpath(self.path / file_name) if is_link else os.path.join(self._real, file_name)

    def subfolder(self, name: str, *, folded: bool) -> "_Listing | None":
        _, folders = self._entries
        found = name if name in folders else None
        if found is None and folded:
            found = _only(name, self._folded_folders.get(_fold(name), []))
        if found is None:
            return None
        if found not in self._subfolders:
            self._subfolders[found] = _Listing(self.path / found)
        return self._subfolders[found]

    def file(self, name: str, *, folded: bool) -> str | None:
        files, _ = self._entries
        if name in files:
            return name
        if name.endswith(ANY_ENDING):
            stem = name.removesuffix(ANY_ENDING)
            stems = {image: PurePosixPath(image).stem for image in self._stems.get(_fold(stem), [])}
            wanted = _only(stem, list(dict.fromkeys(stems.values()))) if folded else stem
            return next((image for image, found in stems.items() if found == wanted), None)
        return _only(name, self._folded_files.get(_fold(name), [])) if folded else None


def is_image_name(name: str) -> bool:
    """Whether a file's name has the ending of an image; hidden files, such as those that a Mac puts into archives, have none."""
    return not name.startswith(".") and PurePosixPath(name).suffix.lower() in IMAGE_ENDINGS


def plain_name(name: str) -> str:
    """What all spellings of a name have in common."""
    slashes = name.replace("\\", "/")
    path = slashes.partition("?d=")[2].partition("&")[0] or re.split("[?#]", slashes)[0]
    return _normal(PurePosixPath(unquote(path).replace("\\", "/")).as_posix().lstrip("/"))


def _spellings(name: str, *, where: Path) -> list[Parts]:
    """The parts of a name in every spelling, each once."""
    spellings = [name]
    if not _UNUSUAL.isdisjoint(name):
        slashes = name.replace("\\", "/")
        of_query = slashes.partition("?d=")[2].partition("&")[0]
        path = re.split("[?#]", slashes)[0]
        decoded = (unquote(text).replace("\\", "/") for text in (of_query, slashes, path))
        spellings += (slashes, of_query, path, *decoded)
    found = list(dict.fromkeys(filter(None, map(_parts, spellings))))
    if any(".." in parts for parts in found):
        raise ValueError(f"{where}: the file name {name!r} leads out of the folder of the images")
    return found


def _parts(path: str) -> Parts:
    return tuple(part for part in path.split("/") if part not in ("", "."))


def _by(key: Callable[[str], str], names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(key(name), []).append(name)
    return found


def _only(name: str, found: list[str]) -> str | None:
    """The one that fits, or the one that fits in upper and lower case, too; None where that is no single one."""
    same = [other for other in found if _normal(other) == _normal(name)] if len(found) > 1 else found
    return same[0] if len(same) == 1 else None


def _is_spelled(wanted: Parts, found: Parts) -> bool:
    last = wanted[-1].removesuffix(ANY_ENDING)
    stem = PurePosixPath(found[-1]).stem
    found = (*found[:-1], stem) if last != wanted[-1] and stem else found
    return tuple(map(_normal, (*wanted[:-1], last))) == tuple(map(_normal, found))


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _fold(text: str) -> str:
    return _normal(text).casefold()
