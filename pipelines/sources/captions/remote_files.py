"""Data files by path, folder, glob or URL (``s3://``, ``gs://``, ``hf://``, whatever fsspec knows), in a stable order."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipelines.sources.captions.image_files import is_hidden
from schemas.paths import is_inside, is_regular

# What object stores know of a file's content, by name in fsspec's ``info``: enough to tell one version from another.
_CONTENT_IDS = ("ETag", "etag", "md5Hash", "content_md5", "blob_id", "sha256")
_SAMPLE_BYTES = 65536


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One file. ``url`` is absolute, so that a worker in another folder finds it."""

    url: str
    name: str  # relative to the folder, or to what of a glob comes before its first wild card: growth changes no name
    num_bytes: int
    content_id: str | None  # as the store knows it; None: the store does not

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The bytes, to be read from the start or at any place.

        Raises:
            ValueError: it cannot be opened.
        """
        try:
            fs, plain = fsspec.core.url_to_fs(self.url)
            if isinstance(fs, LocalFileSystem) and not is_regular(Path(plain)):
                raise ValueError("it is gone, or no regular file")
            file = fsspec.open(self.url, "rb").open()
        except Exception as error:  # every store's package has errors of its own
            raise ValueError(f"{self.url} cannot be opened: {type(error).__name__}: {error}") from error
        with file:
            yield cast(BinaryIO, file)

    def identity(self, *, is_whole: bool) -> dict[str, Any]:
        """What a fingerprint holds of the file: the store's own id of the content, else a sha256.

        Unless ``is_whole``, its size, first and last 64 KiB stand for it (shards of images are too much to read each time a
        build looks for what is due).
        """
        if self.content_id is not None:
            return {"name": self.name, "num_bytes": self.num_bytes, "content_id": self.content_id}
        with self.open() as file:
            if is_whole:
                digest = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]  # fsspec's files have readinto
            else:
                digest = hashlib.sha256(file.read(_SAMPLE_BYTES))
                file.seek(max(0, self.num_bytes - _SAMPLE_BYTES))
                digest.update(file.read(_SAMPLE_BYTES))
        return {"name": self.name, "num_bytes": self.num_bytes, "sha256": digest.hexdigest()}


def find_files(path: str, *, endings: tuple[str, ...]) -> tuple[DataFile, ...]:
    """The files that ``path`` stands for, sorted by path.

    It is a file (whatever its ending), a folder (searched to its bottom for files with ``endings``, which are in lower case,
    with the dot) or a glob; local or an fsspec URL. Hidden files, such as a Mac's ``._0001.tar``, are passed over.

    Raises:
        ValueError: the file system's package is not installed, it cannot be listed, or there is no such file.
    """
    try:
        fs, plain = fsspec.core.url_to_fs(path)
        folder = PurePosixPath(plain)
        if fsspec.core.has_magic(plain) and not fs.exists(plain):  # a name may have brackets
            infos = fs.glob(plain, detail=True).values()
            while fsspec.core.has_magic(str(folder)):
                folder = folder.parent
        elif fs.isdir(plain):
            infos = [info for info in fs.find(plain, detail=True).values() if info["name"].lower().endswith(endings)]
        else:
            infos = [fs.info(plain)]
            folder = folder.parent
    except Exception as error:  # every store's package has errors of its own
        raise ValueError(f"{path} cannot be listed: {type(error).__name__}: {error}") from error
    found = [
        DataFile(
            url=fs.unstrip_protocol(info["name"]),
            name=_storable(PurePosixPath(info["name"]).relative_to(folder).as_posix()),
            num_bytes=info["size"],
            content_id=next((f"{key}:{info[key]}" for key in _CONTENT_IDS if info.get(key)), None),
        )
        for info in sorted(infos, key=lambda info: info["name"])
        if info["type"] == "file" or (info.get("islink") and is_regular(Path(info["name"])))
    ]
    if fs.isdir(plain):  # a link within a folder leads nowhere else; a file that is named alone may be one
        for info in infos:
            if info.get("islink") and not is_inside(Path(info["name"]), [Path(plain)]):
                raise ValueError(
                    f"{info['name']} is a link out of {path}: name the file that it leads to, or leave it out"
                )
    if len(found) > 1:  # a file that is named alone is meant
        found = [file for file in found if not is_hidden(file.name)]
    if not found:
        raise ValueError(f"{path}: there is no {' or '.join(endings)} file")
    return tuple(found)


def _storable(name: str) -> str:
    """A name that can be written to a manifest: one that is no Unicode can be opened, but not be encoded."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
