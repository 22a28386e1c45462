"""Source detection for a user's own image-text pairs: which source reads a file or folder, told by what is in it."""

import itertools
import re
from pathlib import Path
from typing import Any

from pipelines.build.scales import Pairs
from pipelines.sources.captions.captioned_images import CaptionedImages
from pipelines.sources.captions.columns import FILE_COLUMNS, FILE_URL_COLUMNS, URL_COLUMNS, Columns
from pipelines.sources.captions.conceptual_captions import ConceptualCaptions
from pipelines.sources.captions.image_files import is_hidden
from pipelines.sources.captions.laion_parquet import LaionParquet
from pipelines.sources.captions.pairs_file import PairsFile
from pipelines.sources.captions.remote_files import DataFile, find_files
from pipelines.sources.captions.table_rows import TABLE_ENDINGS, table_rows
from pipelines.sources.captions.text_encoding import text_lines
from pipelines.sources.captions.webdataset_mirror import WebDatasetMirror
from pipelines.sources.source import name_of_file
from schemas.paths import absolute

_URL = re.compile(r"https?://\S+", re.IGNORECASE)
_TARS = (".tar", ".tar.gz", ".tgz")
_ROWS_LOOKED_AT = 1000


def slug(path: Path) -> str:
    """A file's or folder's name as that of a source or dataset: letters, digits and underscores."""
    return name_of_file(path.stem)


def own_pairs(path: Path, *, images: tuple[Path, ...] = ()) -> Pairs:
    """The source of a table of pairs, of a folder of Parquet files, or of WebDataset tars.

    A table whose first URLs are all paths or ``file:`` URLs is one of images on this machine, below the folders ``images``.

    Raises:
        ValueError: it is of none of these forms, its first rows cannot be read, or its images need a folder.
    """
    name = path.name.lower()
    options: dict[str, Any] = {"path": str(absolute(path)), "name": slug(path)}
    if path.is_dir():
        endings = [(".parquet", LaionParquet), *((ending, WebDatasetMirror) for ending in _TARS)]
        names = [file.name.lower() for file in path.rglob("*") if not is_hidden(file.name)]
        for ending, source in endings:
            if any(file.endswith(ending) for file in names):
                return source(**options)
        raise ValueError(
            f"--urls {path}: the folder has neither .parquet nor .tar files; a folder of images with captions goes by --captions"
        )
    if name.endswith(_TARS):
        return WebDatasetMirror(**options)
    if not name.removesuffix(".gz").endswith(TABLE_ENDINGS):
        raise ValueError(f"--urls {path} is neither {', '.join(TABLE_ENDINGS)} nor {', '.join(_TARS)}")
    file = find_files(options["path"], endings=TABLE_ENDINGS)[0]
    if name.removesuffix(".gz").endswith(".tsv") and not _has_header(file):
        return ConceptualCaptions(**options)
    url = _first_path(file)
    if url is None:
        return LaionParquet(**options) if name.endswith(".parquet") else PairsFile(path=path)
    if not images:
        raise ValueError(
            f"--urls {path}: its urls are files, such as {url!r}: name the folder of the images with --images (or begin them with https://)"
        )
    return own_captions(path, images=images, columns=FILE_URL_COLUMNS)


def own_captions(path: Path, *, images: tuple[Path, ...], columns: Columns = FILE_COLUMNS) -> CaptionedImages:
    """The source of images on this machine with captions; without ``images`` they lie beside the captions.

    Raises:
        ValueError: the captions are of no form that is read, or none of their images is there.
    """
    folders = tuple(map(absolute, images))
    # A link to a list stays where it is, since its images lie beside it.
    captions = absolute(path) if path.is_dir() else absolute(path.parent) / path.name
    source = CaptionedImages(captions=captions, images=folders, name=slug(path), columns=columns)
    source.shards()
    return source


def _has_header(file: DataFile) -> bool:
    """Whether the first line names columns: that of Conceptual Captions is a pair."""
    line = next(text_lines(file), "").rstrip("\r\n")
    return not any(_URL.fullmatch(field) for field in (line.partition("\t")[0], line.rpartition("\t")[2]))


def _first_path(file: DataFile) -> str | None:
    """The first of the first rows' URLs, where all of them are paths or ``file:`` URLs."""
    rows = itertools.islice(table_rows(file, URL_COLUMNS), _ROWS_LOOKED_AT)
    urls = [url.strip() for row in rows if isinstance(url := row["url"], str) and url.strip()]
    is_web = any("://" in url and not url.lower().startswith("file:") for url in urls)
    return None if is_web or not urls else urls[0]
