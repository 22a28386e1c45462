"""Vocabulary: names to detect, and their text embeddings.

Shapes: M names, D embedding width.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Names that are embedded once and detected in any number of images."""

    names: list[str]
    embeddings: Tensor  # [M, D] float32


def checked_names(names: Sequence[str]) -> list[str]:
    """The names without blanks around them.

    Raises:
        ValueError: there are none, one is empty, or a single text was given instead of a list.
    """
    if isinstance(names, str):
        raise ValueError(f"names is the single text {names!r}: give a list, such as [{names!r}]")
    if not names:
        raise ValueError("no names to look for: give at least one, such as 'red apple'")
    blank = [position for position, name in enumerate(names, start=1) if not name.strip()]
    if blank:
        raise ValueError(f"name number {blank[0]} of {len(names)} is empty")
    return [name.strip() for name in names]


def save_vocabulary(vocabulary: Vocabulary, path: Path) -> None:
    """Write one safetensors file: the matrix, and the names in its metadata, so that they cannot come apart."""
    names = json.dumps(vocabulary.names, ensure_ascii=False)
    save_file({"embeddings": vocabulary.embeddings.cpu().contiguous()}, path, metadata={"names": names})


def load_vocabulary(path: Path) -> Vocabulary:
    """Read what ``save_vocabulary`` wrote.

    Raises:
        ValueError: the file lacks the names, or has another number of them than of embeddings.
    """
    with safe_open(path, framework="pt") as file:
        names = json.loads((file.metadata() or {}).get("names", "[]"))
        embeddings = file.get_tensor("embeddings")
    if not names or len(names) != len(embeddings):
        raise ValueError(f"{path.name}: {len(names)} names for {len(embeddings)} embeddings; save the model again")
    return Vocabulary(names=names, embeddings=embeddings)


def read_names(path: Path) -> list[str]:
    """Names of a file: a .json of COCO's or LVIS's format (its categories), or text with one name a line.

    Raises:
        ValueError: the file cannot be read, or holds no names.
    """
    try:
        if path.suffix.lower() == ".json":
            content: Any = json.loads(path.read_text(encoding="utf-8"))
            categories = content["categories"] if isinstance(content, dict) else content
            names = [str(category["name"]).replace("_", " ") for category in categories]
        else:
            names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} holds no readable names: {type(error).__name__}: {error}; one name a line, or a .json with"
            ' {"categories": [{"name": ...}, ...]}'
        ) from error
    if not names:
        raise ValueError(f"{path} holds no names")
    return names
