"""Source detection for a user's own image-text pairs: which source reads a file or folder, told by what is in it."""

import re
from pathlib import Path
from typing import Any

from pipelines.build.scales import Pairs
from pipelines.sources.captions.conceptual_captions import ConceptualCaptions
from pipelines.sources.captions.laion_parquet import LaionParquet
from pipelines.sources.captions.pairs_file import PairsFile
from pipelines.sources.captions.webdataset_mirror import WebDatasetMirror

_URL = re.compile(r"https?://\S+", re.IGNORECASE)


def slug(path: Path) -> str:
    """A file's or folder's name as that of a source or dataset: letters, digits and underscores."""
    return re.sub(r"\W+", "_", path.stem)


def own_pairs(path: Path) -> Pairs:
    """The source of a table of pairs, of a folder of Parquet files, or of WebDataset tars.

    Raises:
        ValueError: a folder that holds neither.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        suffix = next((found for found in (".parquet", ".tar") if any(path.rglob(f"*{found}"))), "")
        if not suffix:
            raise ValueError(f"--urls {path}: the folder has neither .parquet nor .tar files")
    options: dict[str, Any] = {"path": str(path.resolve()), "name": slug(path)}
    if suffix == ".parquet":
        return LaionParquet(**options)
    if suffix == ".tar":
        return WebDatasetMirror(**options)
    if suffix == ".tsv" and not _has_header(path):
        return ConceptualCaptions(**options)
    return PairsFile(path=path)


def own_captions(path: Path, *, images: tuple[Path, ...]) -> Pairs:
    """The source of images on this machine with captions.

    Raises:
        ValueError: it is of none of these forms.
    """
    raise ValueError(f"--captions {path}: not read yet, with {len(images)} folders")


def _has_header(path: Path) -> bool:
    """Whether the first line names columns: that of Conceptual Captions is a pair."""
    with path.open(encoding="utf-8", errors="replace") as file:
        line = file.readline(65_536).rstrip("\r\n")
    return not any(_URL.fullmatch(field) for field in (line.partition("\t")[0], line.rpartition("\t")[2]))
