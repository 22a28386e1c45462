"""Manifest files: a table exists if and only if its ``MANIFEST.json`` does.

Manifests hold no time and no absolute path, so that the same inputs give the same bytes.
"""

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, NonNegativeInt, StringConstraints, ValidationError
from typing_extensions import TypedDict
from upath import UPath

from schemas.paths import is_regular, too_long

MANIFEST_NAME = "MANIFEST.json"
MANIFEST_VERSION = 1


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no insignificant space: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256_hex(text: str) -> str:
    """Hex sha256 of a text in UTF-8; names of files that are no Unicode have halves of characters in them."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def fingerprint(*, stage: str, version: int, config: dict[str, Any], parents: dict[str, str]) -> str:
    """Identity of a computation before it runs: equal and verified means that it need not run again.

    The ``version`` is bumped by hand when behaviour changes; ``config`` is the stage's own, model ids and versions included,
    JSON values only; ``parents`` are the digests of every input, by name.
    """
    return sha256_hex(canonical_json({"stage": stage, "version": version, "config": config, "parents": parents}))


def _inside(path: str) -> str:
    """Raise ValueError for a path that leads out of the folder that it is relative to."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or ":" in parts[0] or "\0" in path:
        raise ValueError(f"{path!r:.300} leads out of its folder")
    if too_long(path):
        raise ValueError(f"{path!r:.80} has a name longer than a file system allows")
    return path


RelativePath = Annotated[str, AfterValidator(_inside)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class FileEntry(BaseModel, frozen=True, extra="forbid"):
    """One published file. ``path`` is relative to the manifest's folder, or to the data root in a dataset manifest."""

    path: RelativePath
    sha256: Sha256
    num_bytes: NonNegativeInt
    num_rows: NonNegativeInt


class Manifest(BaseModel, frozen=True, extra="forbid"):
    """What a stage published for one shard (or, for a global stage, for all)."""

    manifest_version: int = MANIFEST_VERSION
    stage: RelativePath  # a folder of the data root
    stage_version: int
    shard: str | None = None
    fingerprint: str
    config: dict[str, Any] = Field(default_factory=dict)
    parents: dict[str, str] = Field(default_factory=dict)
    rows_in: NonNegativeInt
    rows_kept: NonNegativeInt
    dropped: dict[str, NonNegativeInt] = Field(default_factory=dict)
    files: list[FileEntry]

    @property
    def digest(self) -> str:
        """sha256 of the content alone: a stage that runs again and gives the same files keeps its children valid."""
        return sha256_hex(canonical_json([self.stage, [entry.model_dump() for entry in self.files]]))


class FunnelRow(TypedDict):
    """What an asset kept of its rows, over all shards."""

    stage: RelativePath
    unit: str
    rows_in: NonNegativeInt
    rows_kept: NonNegativeInt
    dropped: dict[str, NonNegativeInt]


class SupervisionSplit(BaseModel, frozen=True, extra="forbid"):
    """All shards of one type of supervision."""

    num_samples: NonNegativeInt
    shards: list[FileEntry]
    indexes: list[FileEntry] = Field(default_factory=list)  # one a shard: `schemas.shard_index.SHARD_INDEX`
    # Detection: the category names of the dataset. Grounding: its phrases. Image-text: the common noun phrases of its captions,
    # most frequent first. Negatives of detection are drawn from its own, those of grounding also from image-text's.
    vocabulary: list[str] = Field(default_factory=list)


class DatasetManifest(BaseModel, frozen=True, extra="forbid"):
    """A named dataset as training reads it: ``<root>/datasets/<name>/MANIFEST.json``.

    Paths are relative to the data root, so that the whole folder can be moved or mirrored.
    """

    manifest_version: int = MANIFEST_VERSION
    name: str
    supervisions: dict[str, SupervisionSplit]  # keys: detection, grounding, image_text; absent where there is no data
    boxed_concepts: list[str]  # every text that has a box anywhere in training, sorted: what is not here is novel
    validation_annotations: FileEntry | None = None  # LVIS v1 JSON
    validation_images: RelativePath | None = None  # folder of its images
    funnel: list[FunnelRow] = Field(default_factory=list)  # one row a stage
    parents: dict[str, str] = Field(default_factory=dict)

    @property
    def digest(self) -> str:
        """sha256 of the whole manifest: the version of the data that a training run read."""
        return sha256_hex(canonical_json(self.model_dump()))


def manifest_path(dataset: Path | UPath) -> Path | UPath:
    """``MANIFEST.json`` of a dataset that is named by its folder or by its manifest."""
    return dataset if dataset.suffix == ".json" else dataset / MANIFEST_NAME


def read_dataset_manifest(path: Path | UPath) -> DatasetManifest:
    """Read the manifest of a dataset, which is named by it or by its folder.

    Raises:
        ValueError: there is none, or it is not one.
    """
    path = manifest_path(path)
    if not is_regular(path):
        raise ValueError(f"no dataset at {path}: build one with `python ray_jobs/build_dataset.py --scale demo`")
    try:
        return DatasetManifest.model_validate_json(path.read_text())
    except ValidationError as error:
        raise ValueError(
            f"{path} is not a dataset manifest of version {MANIFEST_VERSION}: {first_error(error)}; build the dataset again, "
            "which finds the tables that are there"
        ) from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a dataset manifest: {error}") from error


def first_error(error: ValidationError) -> str:
    """The first thing that is wrong, in one line: its place and what was expected there."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}"[:400] if place else first["msg"][:400]
