"""Integrity checks of a model folder: digests of its files, and its weights before anything is built with them."""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from detclipv2.config import ModelConfig
from detclipv2.foreign_files import check_regular

WEIGHTS, TEXT_ENCODER = "model.safetensors", "text_encoder"
MAX_FILES = 1000
_MAX_DESCRIPTION_BYTES = 64 * 2**20  # of a tokenizer, of a concept dictionary: all but weights and embeddings
# Weights that a module may have beyond those in the file: tables that it computes, and normalisation that was folded.
_SPARE_SHARE, _SPARE = 1.25, 2**20


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_files(folder: Path, digests: Any) -> None:
    """Every file that is used is listed, and is as it was written: 400 MB take about a second.

    ``digests`` is what the description has under ``sha256``. The text encoder's folder is read by a library, which takes what
    it finds there: it may hold nothing else.

    Raises:
        ValueError: the list is missing or names no weights, a file differs from it, is missing, or is not in it.
    """
    listed = digests if isinstance(digests, dict) else {}
    if WEIGHTS not in listed or not any(name.startswith(f"{TEXT_ENCODER}/") for name in listed):
        raise ValueError(f"its list of sha256 digests lacks {WEIGHTS} or {TEXT_ENCODER}/: save the model again")
    if len(listed) > MAX_FILES:
        raise ValueError(f"its list of sha256 digests has {len(listed):,} files: at most {MAX_FILES:,}")
    for name, digest in listed.items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"{name!r} leads out of the folder")
        if not (folder / name).exists():
            raise ValueError(f"{name} is missing")
        if check_regular(folder / name) > _MAX_DESCRIPTION_BYTES and not name.endswith(".safetensors"):
            raise ValueError(f"{name} has more than {_MAX_DESCRIPTION_BYTES:,} bytes")
        if sha256_of(folder / name) != digest:
            raise ValueError(f"{name} is not what was saved: its sha256 differs from the one in config.json")
    present = (path.relative_to(folder).as_posix() for path in (folder / TEXT_ENCODER).rglob("*") if path.is_file())
    unlisted = sorted(set(present) - listed.keys())
    if unlisted:
        raise ValueError(f"{unlisted[0]} is not in the list of sha256 digests: remove it")


def check_shapes(path: Path, config: ModelConfig) -> dict[str, int]:
    """The header of the weights agrees with the configuration, so that no file chooses how much memory is taken.

    Returns:
        How many numbers each weight has.

    Raises:
        ValueError: it does not, or is damaged.
    """
    with safe_open(path, framework="pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - it is no mapping
    wanted = {
        "text_encoder.projection.weight": config.embed_dim,
        "neck.fpn.inner_blocks.0.0.weight": config.channels,
        f"head.regression_tower.{config.num_tower_convs - 1}.0.weight": config.channels,
    }
    for name, size in wanted.items():
        shape = shapes.get(name)
        if not shape or shape[0] != size:
            raise ValueError(f"{path.name}: {name} has the shape {shape}, and {size} rows by config.json")
    return {name: math.prod(shape) for name, shape in shapes.items()}


def check_size(sizes: Mapping[str, int], prefix: str, *, needed: int) -> None:
    """Raise ValueError where a module would take more numbers than the file has for it, before its memory is taken."""
    there = sum(size for name, size in sizes.items() if name.startswith(f"{prefix}."))
    if needed > there * _SPARE_SHARE + _SPARE:
        raise ValueError(f"{WEIGHTS} has {there:,} weights of the {prefix}, and config.json names one of {needed:,}")


def check_finite(state: Mapping[str, Tensor]) -> None:
    """Raise ValueError where a weight is not a finite number: every score would be NaN."""
    for name, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(f"{name} has values that are not finite: the training diverged, or the file was changed")
