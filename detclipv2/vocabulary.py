"""Vocabulary: names to detect, and their text embeddings.

Shapes: M names, D embedding width.
"""

import json
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from detclipv2.foreign_files import check_text, parse_json
from detclipv2.text.category_lists import names_of_object, read_categories
from detclipv2.text.dictionary import normalise

# Any iterable of texts: a list, a generator, a NumPy array, a column of a table; or a dict of names by id, or of ids by name.
Names: TypeAlias = Iterable[str] | Mapping[int, str]


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Names that are embedded once and detected in any number of images."""

    names: list[str]
    embeddings: Tensor  # [M, D] float32


def checked_names(names: object) -> list[str]:
    """The names of `Names` in their order, without blanks around them.

    A dict of names by id (or of ids by name) gives them in the order of the dict, whatever the ids are. A set has no order: its
    names are sorted.

    Raises:
        ValueError: there are none, one is empty or not a text, or a single text was given instead of a list.
    """
    if isinstance(names, str):
        raise ValueError(f"names is the single text {names!r}: give a list, such as [{names!r}]")
    dimensions = getattr(names, "ndim", 1)  # of arrays and tables
    if isinstance(names, bytes) or not isinstance(names, Iterable) or dimensions != 1:
        shape = "" if dimensions == 1 else f" of {dimensions} dimensions"
        raise ValueError(f"names is {_a(names)}{shape}: give a list of texts, such as ['red apple', 'guitar']")
    listed = list(names_of_object(names, where="names") if isinstance(names, Mapping) else names)
    if not listed:
        raise ValueError("no names to look for: give at least one, such as 'red apple'")
    for position, name in enumerate(listed, start=1):
        if not isinstance(name, str):
            raise ValueError(f"name number {position} of {len(listed)} is {_a(name)} ({str(name)[:40]}), not a text")
        if not _stripped(name):
            raise ValueError(f"name number {position} of {len(listed)} is empty")
        check_text(name)
    stripped = [_stripped(name) for name in listed]
    return sorted(stripped) if isinstance(names, Set) else stripped


def distinct_names(names: Iterable[str]) -> list[str]:
    """The names less those that differ from an earlier one in case, underscores or blanks alone."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(normalise(name), name)
    return list(first.values())


def _stripped(name: str) -> str:
    return str(name).replace("\ufeff", "").strip()  # a byte order mark that some reader left in place


def _a(value: object) -> str:
    name = type(value).__name__
    return "None" if value is None else f"an {name}" if name[0] in "aeiou" else f"a {name}"


def save_vocabulary(vocabulary: Vocabulary, path: Path) -> None:
    """Write one safetensors file: the matrix, and the names in its metadata, so that they cannot come apart."""
    names = json.dumps(vocabulary.names, ensure_ascii=False)
    save_file({"embeddings": vocabulary.embeddings.cpu().contiguous()}, path, metadata={"names": names})


def load_vocabulary(path: Path, *, width: int | None = None) -> Vocabulary:
    """Read what ``save_vocabulary`` wrote; its embeddings have the given width, if any.

    Raises:
        ValueError: the file lacks the names, has another number of them than of embeddings, a name is empty, or the embeddings
            are no finite numbers or have another width.
    """
    with safe_open(path, framework="pt") as file:
        names = parse_json((file.metadata() or {}).get("names", "[]"))
        embeddings = file.get_tensor("embeddings")
    if not isinstance(names, list) or embeddings.ndim != 2:
        raise ValueError(f"{path.name}: wanted a list of names and a row of numbers for each; save the model again")
    if not names or len(names) != len(embeddings):
        raise ValueError(f"{path.name}: {len(names)} names for {len(embeddings)} embeddings; save the model again")
    for number, name in enumerate(names, 1):
        if not isinstance(name, str) or not _stripped(name):
            raise ValueError(f"{path.name}: name number {number} of {len(names)} is empty or not a text")
        check_text(name)
    if embeddings.dtype != torch.float32 or not torch.isfinite(embeddings).all():
        raise ValueError(f"{path.name}: its embeddings are not finite numbers of 32 bits; save the model again")
    if width is not None and embeddings.shape[1] != width:
        raise ValueError(f"{path.name}: its embeddings are {embeddings.shape[1]} wide, the model's {width}")
    return Vocabulary(names=names, embeddings=embeddings)


def read_names(path: Path) -> list[str]:
    """Names of a file, with blanks for underscores: whatever `detclipv2.text.category_lists.read_categories` reads.

    Raises:
        ValueError: the file cannot be read, or holds no names.
    """
    return [" ".join(category.name.replace("_", " ").split()) for category in read_categories(path)]
