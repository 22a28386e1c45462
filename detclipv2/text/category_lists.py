"""Category names of detection datasets, as their files have them: text, CSV, JSON and YAML."""

import csv
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from detclipv2.foreign_files import check_text, parse_json, read_bounded

_NAME_COLUMNS = ("name", "class", "category", "label", "names", "classes", "categories", "labels", "class_name")
MAX_BYTES = 2 * 2**30  # LVIS's training annotations have 1.1 GiB
MAX_YAML_BYTES = 2 * 2**20  # PyYAML reads 100 kB a second
_FORMATS = (
    "wanted one name a line, a .csv with a column 'name', a .json of COCO's or LVIS's format or with a list of names, or a"
    " data.yaml with 'names'"
)
_ID = re.compile(r"\d+|n\d{8}")  # numbers, and WordNet's ids as ImageNet has them


@dataclass(frozen=True, kw_only=True)
class Category:
    """A category as its list describes it; texts are not normalised."""

    name: str
    synonyms: tuple[str, ...] = ()
    definition: str | None = None
    frequency: str | None = None  # LVIS: "f", "c" or "r" for many, some or few training images


def read_categories(path: Path) -> list[Category]:
    """Read a category list in UTF-8 (with a byte order mark or without) or UTF-16 (with one).

    - ``.json``: a list of names; names by id, or ids by name; a list of COCO or LVIS categories (``name`` and, where there are,
      ``synonyms``, ``def`` and ``frequency``); or an object that has one of these as ``categories`` or ``names``.
    - ``.yaml``, ``.yml``: the same, such as Ultralytics' ``data.yaml``.
    - ``.csv``, ``.tsv``: the column ``name`` (or ``class``, ``category``, ``label``), or the only column. Commas, semicolons or
      tabs lie between columns.
    - Any other: one name a line; blank lines do not count.

    Raises:
        ValueError: the file cannot be read or is none of these, or a name is empty; the message says where.
    """
    try:
        entries = _entries(path.suffix.lower(), _text(read_bounded(path, max_bytes=_most(path))))
    except OSError as error:
        raise ValueError(f"{path} cannot be read as a category list: {error.strerror}") from error
    except (ValueError, RecursionError, csv.Error, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read as a category list: {error}; {_FORMATS}") from error
    if not entries:
        raise ValueError(f"{path} holds no category; {_FORMATS}")
    categories = []
    for number, entry in enumerate(entries, 1):
        try:
            categories.append(_category(entry))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, category {number}: wanted a name, got {_short(entry)}: {error}") from error
    return categories


def names_of_object(content: Mapping[Any, Any], *, where: str) -> list[Any]:
    """The names of a mapping of names by id, or of ids by name, in its order.

    Raises:
        ValueError: it is neither.
    """
    keys, values = list(content), list(content.values())
    if all(_is_id(key) for key in keys):
        return values
    if all(isinstance(key, str) for key in keys) and all(_is_id(value) for value in values):
        return keys
    raise ValueError(f"{where} maps {_short(keys[0])} to {_short(values[0])}: wanted ids and names")


def _most(path: Path) -> int:
    return MAX_YAML_BYTES if path.suffix.lower() in (".yaml", ".yml") else MAX_BYTES


def _short(value: Any) -> str:
    """A value as an error shows it: aliases of YAML can nest a short text to one of any length."""
    return repr(reprlib.repr(value)[:80] if isinstance(value, list | dict) else str(value)[:80])


def _is_id(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and _ID.fullmatch(str(value)) is not None


def _text(content: bytes) -> str:
    """The text of a file.

    Raises:
        ValueError: it is in another encoding, or no text.
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = content.decode("utf-16")
    else:
        if b"\0" in content:
            raise ValueError("it is no text but a binary file")
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            row = content.count(b"\n", 0, error.start) + 1
            raise ValueError(f"row {row} is not UTF-8: save the file as UTF-8 text") from error
    unprintable = re.search(r"[\x00-\x08\x0e-\x1f\x7f]", text)
    if unprintable:
        raise ValueError(f"it is no text: it has the character {unprintable[0]!r}")
    if text.lstrip().startswith("<"):
        raise ValueError("it is XML or HTML")
    return text


def _entries(suffix: str, text: str) -> list[Any]:
    if suffix == ".json":
        return _listed(parse_json(text))
    if suffix in (".yaml", ".yml"):
        return _listed(yaml.load(text, Loader=yaml.BaseLoader))  # as they are written: "no" is a name, and so is "7"
    if suffix in (".csv", ".tsv"):
        return _column(text)
    if re.match(r"\s*[\[{]", text):
        raise ValueError("it looks like JSON: give it a name that ends in .json")
    if re.search(r"^(names|categories)\s*:", text, re.MULTILINE):
        raise ValueError("it looks like YAML: give it a name that ends in .yaml")
    return [line for line in re.split(r"\r\n|\r|\n", text) if line.strip()]


def _listed(content: Any) -> list[Any]:
    for key in ("categories", "names"):
        if isinstance(content, dict) and isinstance(content.get(key), list | dict):
            content = content[key]
    if isinstance(content, dict):
        return names_of_object(content, where="it") if content else []
    if content is None:
        return []
    if not isinstance(content, list):
        raise ValueError(f"wanted a list or an object, got {type(content).__name__}")
    return content


def _column(text: str) -> list[str]:
    """The column of names of a table with or without a header."""
    head = text.lstrip("\r\n").partition("\n")[0]
    delimiter = max("\t;,", key=head.count)  # of equals the first, and a comma in a quoted name is outnumbered
    rows = list(csv.reader(text.splitlines(keepends=True), delimiter=delimiter, strict=True, skipinitialspace=True))
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    if not rows:
        return []
    header = [cell.strip().casefold() for cell in rows[0]]
    columns = [header.index(name) for name in _NAME_COLUMNS if name in header]
    if not columns and max(map(len, rows)) > 1:
        raise ValueError(f"it has several columns and none is called 'name': {', '.join(rows[0])[:80]}")
    column = columns[0] if columns else 0
    return [row[column] if column < len(row) else "" for row in rows[1 if columns else 0 :]]


def _category(entry: Any) -> Category:
    fields = {"name": entry} if isinstance(entry, str) else dict(entry)
    if isinstance(fields["name"], int) and not isinstance(fields["name"], bool):
        fields["name"] = str(fields["name"])
    names = [fields["name"], *(fields.get("synonyms") or ())]
    if not all(isinstance(name, str) and name.replace("_", " ").strip() for name in names):
        raise ValueError("empty name")
    for name in names:
        check_text(name)
    return Category(
        name=names[0],
        synonyms=tuple(names[1:]),
        definition=" ".join((fields.get("def") or "").split()) or None,
        frequency=fields.get("frequency") if isinstance(fields.get("frequency"), str) else None,
    )
