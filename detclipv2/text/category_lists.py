"""Category names of detection datasets, as their files have them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Category:
    """A category as its list describes it; texts are not normalised."""

    name: str
    synonyms: tuple[str, ...] = ()
    definition: str | None = None
    frequency: str | None = None  # LVIS: "f", "c" or "r" for many, some or few training images


def read_categories(path: Path) -> list[Category]:
    """Read a category list.

    Known are a ``.txt`` of one name a line, and JSON: a list of names; an object of names by id, or of anything else by name; a
    list of COCO or LVIS categories (``name`` and, where there are, ``synonyms``, ``def`` and ``frequency``), bare or as the
    ``categories`` of an annotation file.

    Raises:
        ValueError: the file cannot be read or is none of these, or a name is empty; the message says where.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        entries = text.splitlines() if path.suffix.lower() == ".txt" else _entries(json.loads(text))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a category list: {error}") from error
    if path.suffix.lower() == ".txt":
        entries = [line for line in entries if line.strip()]
    if not entries:
        raise ValueError(f"{path} holds no category")
    categories = []
    for number, entry in enumerate(entries, 1):
        try:
            categories.append(_category(entry))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, category {number}: wanted a name, got {str(entry)[:80]!r}: {error}") from error
    return categories


def _entries(content: Any) -> list[Any]:
    if isinstance(content, dict) and "categories" in content:
        content = content["categories"]
    if isinstance(content, dict):
        values = list(content.values())
        return values if all(isinstance(value, str) for value in values) else list(content)
    if not isinstance(content, list):
        raise ValueError(f"wanted a list or an object, got {type(content).__name__}")
    return content


def _category(entry: Any) -> Category:
    fields = {"name": entry} if isinstance(entry, str) else dict(entry)
    names = [fields["name"], *fields.get("synonyms", ())]
    if not all(isinstance(name, str) and name.replace("_", " ").strip() for name in names):
        raise ValueError("empty name")
    return Category(
        name=names[0],
        synonyms=tuple(names[1:]),
        definition=" ".join((fields.get("def") or "").split()) or None,
        frequency=fields.get("frequency"),
    )
