"""Held-out images: kept for evaluation, and found by COCO id and by hash in whatever training data they occur in."""

import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from detclipv2.image_decoding import decode_rgb, image_suffixes, read_image_file
from pipelines.sources.captions.parquet_pages import rows_at_once
from pipelines.sources.input_files import check_inside, parse_json, read_text
from schemas.conform import conform
from schemas.manifest import canonical_json, sha256_hex
from schemas.paths import is_regular, read_regular

# One row an evaluation image.
HASHES = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("file_name", "sha256", "phash")])
_MAX_DIGITS, _MAX_HASHES = 18, 10_000_000
# COCO names its images by id: 000000000139.jpg, COCO_val2014_000000000139.jpg, .../val2017/000000000139.jpg.
_COCO_NAME = re.compile(r"(?:^|[/_])(000000\d{6})\.(?:jpe?g|png)$", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class HeldOutImages:
    """Ids and hashes of images that must not be trained on.

    Attributes:
        coco_ids: COCO ids, compared with those that file names and URLs bear.
        sha256: of whole files.
        files: path and size in bytes of files on this machine, whose bytes are compared.
        phashes: 64-bit perceptual hashes, 16 hex digits.
        max_distance: largest Hamming distance of two perceptual hashes of one image; see `pipelines.stages.dedup.Dedup`.
    """

    coco_ids: frozenset[int] = frozenset()
    sha256: frozenset[str] = frozenset()
    files: tuple[tuple[str, int], ...] = ()
    phashes: frozenset[str] = frozenset()
    max_distance: int = 2

    @property
    def config(self) -> dict[str, Any]:
        content = canonical_json([sorted(self.coco_ids), sorted(self.sha256), sorted(self.phashes)])
        config = {
            "num_coco_ids": len(self.coco_ids),
            "num_hashes": len(self.sha256),
            "held_out_sha256": sha256_hex(content),
            "max_distance": self.max_distance,
        }
        if self.files:  # by name and size: a build that has nothing to do must not read them
            names = canonical_json([[Path(path).name, size] for path, size in self.files])
            config |= {"num_files": len(self.files), "files_sha256": sha256_hex(names)}
        return config

    def has_name(self, names: Iterable[str]) -> bool:
        """Whether a file name or URL bears one of the ids."""
        return any(coco_id(name) in self.coco_ids for name in names)

    def has_bytes(self, content: bytes) -> bool:
        """Whether a file of these bytes is held out."""
        return hashlib.sha256(content).hexdigest() in self.sha256 or any(
            read_regular(Path(path)) == content for path in self._files_by_size.get(len(content), ())
        )

    @cached_property
    def all_sha256(self) -> frozenset[str]:
        """``sha256``, and that of all ``files``, which are read for it."""
        return self.sha256 | {hashlib.sha256(read_regular(Path(path))).hexdigest() for path, _ in self.files}

    @cached_property
    def _files_by_size(self) -> dict[int, list[str]]:
        by_size: dict[int, list[str]] = {}
        for path, size in self.files:
            by_size.setdefault(size, []).append(path)
        return by_size

    def is_near(self, phashes: Sequence[str | None]) -> np.ndarray:
        """For each of N hashes of 16 hex digits whether a held-out one is within ``max_distance``: [N]; null is near none."""
        near = np.zeros(len(phashes), bool)
        rows = np.array([i for i, phash in enumerate(phashes) if phash is not None], np.intp)
        bits = np.array([int(phash, 16) for phash in phashes if phash is not None], np.uint64)
        for start, width, parts, held_out in self._bands:
            part = _band(bits, start, width)
            first, last = np.searchsorted(parts, part, "left"), np.searchsorted(parts, part, "right")
            for i in np.flatnonzero(last > first):
                distances = np.bitwise_count(held_out[first[i] : last[i]] ^ bits[i])
                near[rows[i]] |= bool((distances <= self.max_distance).any())
        return near

    @cached_property
    def _bands(self) -> list[tuple[int, int, np.ndarray, np.ndarray]]:
        """Of each band its first bit, its width, the held-out hashes' parts in ascending order, and the hashes in that order.

        By the pigeonhole principle hashes within ``max_distance`` agree in one of ``max_distance + 1`` bands.
        """
        bits = np.array(sorted(int(phash, 16) for phash in self.phashes), np.uint64)
        edges = [64 * band // (self.max_distance + 1) for band in range(self.max_distance + 2)]
        bands = []
        for start, stop in itertools.pairwise(edges):
            parts = _band(bits, start, stop - start)
            order = np.argsort(parts, kind="stable")
            bands.append((start, stop - start, parts[order], bits[order]))
        return bands


def held_out_images(
    *, ids: Sequence[Path] = (), hashes: pa.Table | None = None, max_distance: int = 2
) -> HeldOutImages:
    """Held-out images from id lists (see `read_ids`) and a table of ``HASHES``.

    Raises:
        ValueError: neither was given, or a list holds no id.
    """
    if not ids and hashes is None:
        raise ValueError("name what is held out: lists of ids, hashes of images, or both")
    columns = {name: frozenset[str]() for name in ("sha256", "phash")}
    if hashes is not None:
        table = conform(hashes, HASHES, where="hashes of held-out images")
        columns = {name: frozenset(table[name].to_pylist()) for name in columns}
    return HeldOutImages(
        coco_ids=frozenset(i for path in ids for i in read_ids(path)),
        sha256=columns["sha256"],
        phashes=columns["phash"],
        max_distance=max_distance,
    )


def _band(bits: np.ndarray, start: int, width: int) -> np.ndarray:
    return (bits >> np.uint64(start)) & np.uint64(2**width - 1)


def coco_id(name: str) -> int | None:
    """The COCO id that a file name or URL ends with."""
    match = _COCO_NAME.search(name)
    return int(match[1]) if match else None


def read_ids(path: Path) -> frozenset[int]:
    """COCO ids of a JSON list of ids, of COCO or LVIS JSON (its ``images``), or of a text file with a file name or URL a line.

    Raises:
        ValueError: it cannot be read, or something in it is not a COCO id.
    """
    text = read_text(path)
    ids = _ids_of_json(text, path) if path.suffix.lower() == ".json" else _ids_of_lines(text, path)
    if not ids:
        raise ValueError(f"{path} holds no id")
    return ids


def _ids_of_json(text: str, path: Path) -> frozenset[int]:
    content = parse_json(text, path=path)
    entries = content.get("images") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise ValueError(f"{path} is neither a list of ids nor COCO JSON with a list 'images'")
    ids = set()
    for i, entry in enumerate(entries):
        number = entry.get("id") if isinstance(entry, dict) else entry
        if not isinstance(number, int) or isinstance(number, bool):
            raise ValueError(f"{path}: entry {i} has the id {number!r:.80}; it must be a whole number")
        ids.add(number)
    return frozenset(ids)


def _ids_of_lines(text: str, path: Path) -> frozenset[int]:
    ids = set()
    for row, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            is_id = line.strip().isdecimal() and len(line.strip()) <= _MAX_DIGITS
            number = int(line) if is_id else coco_id(line.strip())
            if number is None:
                raise ValueError(f"{path}: row {row}, {line.strip()[:80]!r}, is neither an id nor a COCO file name")
            ids.add(number)
    return frozenset(ids)


def hash_images(folder: Path) -> pa.Table:
    """``HASHES`` of all images under a folder, by ascending path; some 100 images of 640 x 480 a second.

    Raises:
        ValueError: there is none, or one cannot be decoded.
    """
    rows = []
    suffixes = image_suffixes()
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes):
        if path.name.startswith("._") or path.is_dir():  # what macOS keeps beside a file
            continue
        check_inside(path, [folder], where=folder)
        try:
            content = read_image_file(path)
            phash = str(imagehash.phash(decode_rgb(content)))
        except ValueError as error:
            raise ValueError(f"{path} cannot be decoded: {error}") from error
        digest = hashlib.sha256(content).hexdigest()
        name = os.fsencode(path.relative_to(folder)).decode(errors="backslashreplace")
        rows.append({"file_name": name, "sha256": digest, "phash": phash})
    if not rows:
        raise ValueError(f"there is no image under {folder}")
    return pa.Table.from_pylist(rows, schema=HASHES)


def read_hashes(path: Path) -> pa.Table:
    """``HASHES`` from a Parquet file that holds what `hash_images` gave.

    Raises:
        ValueError: it cannot be read, or lacks a column.
    """
    if not is_regular(path):
        raise ValueError(f"{path} cannot be read: there is no such file, or it is no regular one")
    try:
        with pq.ParquetFile(path) as parquet:
            if parquet.metadata.num_rows > _MAX_HASHES:
                raise ValueError(f"it has more than {_MAX_HASHES:,} rows")
            columns = [name for name in HASHES.names if name in parquet.schema_arrow.names]
            with path.open("rb") as file:
                rows_at_once(file, parquet, columns, num_rows=1)  # refuses columns that unpack to more than hashes take
            table = parquet.read(columns=columns)
    except Exception as error:  # a damaged file raises whatever it leads to
        raise ValueError(f"{path} cannot be read: {error}") from error
    return conform(table, HASHES, where=str(path))
