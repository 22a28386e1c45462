"""Folders of images, searched by the names that annotations give them; no name leads out of the folders."""

import os
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from pipelines.sources.captions.image_files import IMAGE_ENDINGS, ending_of, is_hidden
from schemas.paths import is_inside


@dataclass(frozen=True, kw_only=True)
class FoundFile:
    """A file; ``name`` is its path below its folder, with slashes. A link that leads out of all folders is not inside."""

    name: str
    path: Path
    num_bytes: int
    is_inside: bool = True


@dataclass(frozen=True)
class ImageFolders:
    """The files of folders, to their bottom, listed once.

    Attributes:
        folders: absolute.
    """

    folders: tuple[Path, ...]

    @cached_property
    def files(self) -> list[FoundFile]:
        """Those that are not hidden, each once, by folder and name.

        Raises:
            ValueError: a folder cannot be listed.
        """
        found: dict[Path, FoundFile] = {}
        for folder in self.folders:
            for parent, children, names in os.walk(folder, onerror=_refuse):
                children.sort()
                for name in sorted(names):
                    path = Path(parent, name)
                    file = _file_at(path, folder, within=self.folders)
                    if file is not None and not is_hidden(file.name):
                        found.setdefault(path, file)
        return list(found.values())

    @property
    def images(self) -> list[FoundFile]:
        """The files with the ending of an image."""
        return [file for file in self.files if ending_of(file.name) in IMAGE_ENDINGS]

    def find(self, names: Iterable[str]) -> dict[str, FoundFile | str]:
        """The file of every name, or the reason why there is none.

        A name fits the file with the same path below its folder, else the one file whose path ends with the name, or with
        which the name ends (``val2017/1.jpg`` for ``1.jpg``): in any case, with either slash, composed or not (Unicode),
        percent-encoded or not. ``image_outside_folder``: it has ``..`` in it, or fits a link that leads out of all folders.
        ``image_ambiguous``: it fits several files, or other names fit its file as well.
        """
        answers = {name: self._find(name) for name in names}
        by_file: dict[Path, set[str]] = defaultdict(set)
        for name, answer in answers.items():
            if isinstance(answer, FoundFile):
                by_file[answer.path].add(_loose(unquote(self._relative(name) or name)))
        shared = {path for path, loose in by_file.items() if len(loose) > 1}
        return {
            name: "image_ambiguous" if isinstance(answer, FoundFile) and answer.path in shared else answer
            for name, answer in answers.items()
        }

    def _find(self, name: str) -> FoundFile | str:
        relative = self._relative(name)
        if relative is None:
            return "image_outside_folder"
        for candidates in (self._by_name.get(relative, ()), *map(self._fitting, _variants(relative))):
            if len(candidates) > 1:
                return "image_ambiguous"
            if candidates:
                return candidates[0] if candidates[0].is_inside else "image_outside_folder"
        return "image_missing"

    def _relative(self, name: str) -> str | None:
        """The path below a folder that a name or ``file:`` URL stands for; None where it leads out of it."""
        if name.lower().startswith("file:"):
            try:
                name = unquote(urlsplit(name).path)
            except ValueError:  # such as brackets that hold no address
                return None
        path = PurePosixPath(name)
        if ".." in path.parts or ".." in name.split("\\"):
            return None
        if path.is_absolute():
            below = (path.relative_to(folder) for folder in self.folders if path.is_relative_to(folder))
            return next(below, path.relative_to("/")).as_posix()  # else of another machine
        return path.as_posix()

    def _fitting(self, loose: str) -> Sequence[FoundFile]:
        """Files whose path is, ends with, or is the end of a name."""
        files = self._by_last_part.get(loose.rpartition("/")[2], ())
        same = [file for file in files if _loose(file.name) == loose]
        return same or [file for file in files if _ends_with(_loose(file.name), loose)]

    @cached_property
    def _by_name(self) -> Mapping[str, list[FoundFile]]:
        return _grouped((file.name, file) for file in self.files)

    @cached_property
    def _by_last_part(self) -> Mapping[str, list[FoundFile]]:
        return _grouped((_loose(file.name).rpartition("/")[2], file) for file in self.files)


def _refuse(error: OSError) -> None:
    raise ValueError(f"the folder {error.filename} cannot be listed: {error.strerror}") from error


def _file_at(path: Path, folder: Path, *, within: Sequence[Path]) -> FoundFile | None:
    """None where there is no plain file, such as at a link that leads nowhere."""
    try:
        status = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    # A name that is no Unicode can be read, but not be written to a table.
    name = os.fsencode(path.relative_to(folder)).decode(errors="backslashreplace")
    stays = not path.is_symlink() or is_inside(path, within)
    return FoundFile(name=name, path=path, num_bytes=status.st_size, is_inside=stays)


def _grouped(pairs: Iterable[tuple[str, FoundFile]]) -> Mapping[str, list[FoundFile]]:
    grouped: dict[str, list[FoundFile]] = defaultdict(list)
    for key, file in pairs:
        grouped[key].append(file)
    return dict(grouped)


def _loose(name: str) -> str:
    return unicodedata.normalize("NFC", PurePosixPath(name.replace("\\", "/")).as_posix()).casefold()


def _variants(name: str) -> list[str]:
    return list(dict.fromkeys([_loose(name), _loose(unquote(name))]))


def _ends_with(one: str, other: str) -> bool:
    """Whether one path is the end of the other."""
    return f"/{one}".endswith(f"/{other}") or f"/{other}".endswith(f"/{one}")
