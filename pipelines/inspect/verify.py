"""Dataset verification: reads every byte and says what is wrong."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError
from rich.console import Console
from rich.progress import track

from detclipv2.image_decoding import ImageDecodingError, open_image, upright_rgb
from pipelines.inspect.built_dataset import BuiltDataset
from pipelines.stages.training_shards import index_figures
from pipelines.storage import Location, PublishedTable, format_counts, sha256_file, verify_content
from pipelines.storage.tars import TarSample, read_tar, tar_extents
from schemas.conform import conform
from schemas.manifest import MANIFEST_NAME, FileEntry, Manifest
from schemas.paths import is_regular
from schemas.shard_index import SHARD_INDEX
from schemas.training import TrainingSample

MAX_PROBLEMS_PER_SHARD = 20
FIX = "build the dataset again: what is damaged or missing is made anew"


@dataclass(frozen=True, kw_only=True)
class ShardCheck:
    """A shard to read."""

    root: Location
    supervision: str
    shard: FileEntry
    index: FileEntry | None

    def problems(self) -> list[str]:
        """What is wrong with the shard: bytes, tar structure, every sample, and the index."""
        try:
            with _on_this_machine(self.root / self.shard.path) as path:
                if path.exists() and not is_regular(path):
                    return ["is no regular file"]
                problems, figures = _read_shard(path, supervision=self.supervision)
                found = [*_byte_problems(path, self.shard), *problems]
                if len(figures) != self.shard.num_rows:
                    found.append(f"{len(figures)} samples, the manifest says {self.shard.num_rows}")
                return found + self._index_problems(path, figures)
        except FileNotFoundError:
            return ["is missing"]

    def _index_problems(self, shard: Path, figures: list[dict[str, int]]) -> list[str]:
        if self.index is None:
            return ["has no index: it was built by an older version"]
        try:
            with _on_this_machine(self.root / self.index.path) as path:
                if path.exists() and not is_regular(path):
                    return ["its index is no regular file"]
                damage = _byte_problems(path, self.index)
                if damage:
                    return [f"its index {problem}" for problem in damage]
                rows = conform(pq.read_table(path), SHARD_INDEX, where="its index").to_pylist()
            wanted = [
                {"key": extent.key, "offset": extent.offset, "num_bytes": extent.num_bytes} | of_sample
                for extent, of_sample in zip(tar_extents(shard), figures, strict=True)
            ]
            return [] if rows == wanted else ["its index does not tell what lies where"]
        except FileNotFoundError:
            return ["its index is missing"]
        except (ValueError, pa.ArrowException) as error:
            return [f"its index cannot be read: {error}"]


def _read_shard(path: Path, *, supervision: str) -> tuple[list[str], list[dict[str, int]]]:
    """What is wrong with the samples, and the figures of each that the index should have."""
    problems: list[str] = []
    figures: list[dict[str, int]] = []
    previous = ""
    try:
        for sample in read_tar(path):
            if sample.key <= previous:
                problems.append(f"sample {sample.key} after {previous}: keys are not unique and ascending")
            previous = sample.key
            annotation, found = read_sample(sample, supervision=supervision)
            problems += [f"sample {sample.key}: {problem}" for problem in found]
            figures.append({} if annotation is None else index_figures(annotation))
    except ValueError as error:
        problems.append(str(error).replace(str(path), "the tar"))
    return problems, figures


def read_sample(sample: TarSample, *, supervision: str) -> tuple[TrainingSample | None, list[str]]:
    """The annotation of a sample, None where it cannot be read, and what is wrong with the sample."""
    if set(sample.members) != {"jpg", "json"}:
        return None, [f"has {sorted(sample.members)}, wanted ['jpg', 'json']"]
    try:
        annotation = TrainingSample.model_validate_json(sample.members["json"])
    except ValidationError as error:
        return None, [f"{'.'.join(map(str, e['loc'])) or 'annotation'}: {e['msg']}" for e in error.errors()]
    problems = []
    if annotation.supervision != supervision:
        problems.append(f"is of type {annotation.supervision}, its shard of {supervision}")
    try:
        image = open_image(sample.members["jpg"])
        upright_rgb(image)  # training reads the pixels as they are stored: its size is the header's
        if image.size != (annotation.width, annotation.height):
            width, height = image.size
            problems.append(f"the image is {width}x{height}, its annotation {annotation.width}x{annotation.height}")
    except ImageDecodingError as error:
        problems.append(f"the image cannot be decoded: {error}")
    return annotation, problems


def check_dataset(dataset: BuiltDataset, *, num_workers: int, console: Console) -> dict[str, list[str]]:
    """Read all shards and the validation set in ``num_workers`` threads; the console shows the progress.

    Returns:
        What is wrong, by path relative to the data root; empty where all is well.
    """
    checks = []
    for supervision, split in dataset.manifest.supervisions.items():
        indexes: Sequence[FileEntry | None] = split.indexes or [None] * len(split.shards)
        for shard, index in zip(split.shards, indexes, strict=True):
            checks.append(ShardCheck(root=dataset.root, supervision=supervision, shard=shard, index=index))
    # Hashing, decoding and the network leave other threads at work.
    with ThreadPoolExecutor(num_workers) as pool:
        results = pool.map(ShardCheck.problems, checks)
        options: dict[str, Any] = {"console": console, "transient": True, "disable": not console.is_terminal}
        shown = track(results, description="reading shards", total=len(checks), **options)
        found = {check.shard.path: problems for check, problems in zip(checks, shown, strict=True)}
    found |= _validation_problems(dataset)
    return {path: problems for path, problems in found.items() if problems}


def empty_parts(dataset: BuiltDataset) -> list[str]:
    """A line for each part of a dataset with boxes that holds none: its bytes may be whole, but nothing can be learnt from it."""
    lines = []
    for row in dataset.manifest.funnel:
        kind = row["stage"].removesuffix("_shards")
        if kind in ("detection", "grounding") and not row["rows_kept"]:
            dropped = format_counts(row["dropped"])
            lines.append(
                f"{kind} has no box: none of {row['rows_in']:,} could be used" + f" ({dropped})" * bool(dropped)
            )
    annotations = dataset.manifest.validation_annotations
    if annotations is not None and is_regular(dataset.root / annotations.path):
        try:
            content = json.loads((dataset.root / annotations.path).read_text())
            is_empty = isinstance(content, dict) and not content.get("annotations")
        except (ValueError, RecursionError):  # damaged, which its hash shows
            is_empty = False
        if is_empty:
            lines.append("validation has no box")
    return lines


def _validation_problems(dataset: BuiltDataset) -> dict[str, list[str]]:
    annotations = dataset.manifest.validation_annotations
    if annotations is None:
        return {}
    folder = (dataset.root / annotations.path).parent
    name = annotations.path.rpartition("/")[0]
    if isinstance(folder, Path) and not is_regular(folder / MANIFEST_NAME):
        return {name: ["is missing"]}
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST_NAME).read_text())
    except FileNotFoundError:
        return {name: ["is missing"]}
    except ValueError:
        return {name: ["has a damaged manifest"]}
    problem = verify_content(PublishedTable(folder=folder, manifest=manifest))
    return {name: [problem]} if problem else {}


@contextmanager
def _on_this_machine(path: Location) -> Iterator[Path]:
    """The file itself, or a copy for as long as the context lasts: what is read once needs no place in the cache."""
    if isinstance(path, Path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="detclip-verify-") as folder:
        path.fs.get_file(path.path, f"{folder}/{path.name}")
        yield Path(folder) / path.name


def _byte_problems(path: Path, entry: FileEntry) -> list[str]:
    num_bytes = path.stat().st_size
    if num_bytes != entry.num_bytes:
        return [f"has {num_bytes} bytes, not {entry.num_bytes}"]
    return [] if sha256_file(path) == entry.sha256 else ["has another sha256 than the manifest says"]
