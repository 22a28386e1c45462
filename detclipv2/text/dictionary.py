"""The concept dictionary: names of things with their definitions (section 3.1 of arXiv:2304.04514)."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from detclipv2.foreign_files import MAX_JSON_BYTES, check_text, parse_json, read_bounded

LAYOUT_VERSION = 1

# Endings of plurals and of their singulars, as WordNet's own search has them; "fe" is added, for lists without exceptions.
_ENDINGS = (
    ("s", ""),
    ("ses", "s"),
    ("ves", "f"),
    ("ves", "fe"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
)
_QUALIFIER = re.compile(r"(?<=\S) ?\([^()]*\)$")


def normalise(name: str) -> str:
    """Lower case, blanks for underscores, single blanks: "Bow_(weapon)" is "bow (weapon)"."""
    return " ".join(name.replace("_", " ").lower().split())


def without_qualifier(name: str) -> str:
    """A normalised name without the parenthesis at its end: "bow" of "bow (weapon)"."""
    return _QUALIFIER.sub("", name)


def singulars(name: str) -> list[str]:
    """What a name may be the regular plural of, likely or not: "glasse" and "glass" of "glasses"; none of "dress"."""
    if name.endswith("ss"):
        return []
    return [
        name.removesuffix(plural) + singular
        for plural, singular in _ENDINGS
        if name.endswith(plural) and len(name) > len(plural) + 1
    ]


def spellings(name: str) -> Iterator[str]:
    """Under which names to look for a concept, best first: its own, its singulars, and both without the parenthesis."""
    exact = normalise(name)
    for spelling in dict.fromkeys((exact, without_qualifier(exact))):
        yield spelling
        yield from singulars(spelling)


@dataclass(frozen=True, kw_only=True)
class ConceptDictionary:
    """Concepts by normalised name, in alphabetical order, each with its definition or None.

    Raises:
        ValueError: a name is empty or not normalised, or a definition is empty.
    """

    definitions: dict[str, str | None]

    def __post_init__(self) -> None:
        """Check and sort."""
        for name, definition in self.definitions.items():
            if not name or name != normalise(name):
                raise ValueError(f"concept {name!r} is not normalised, which gives {normalise(name)!r}")
            if definition is not None and not definition.strip():
                raise ValueError(f"concept {name!r} has an empty definition; null says that it has none")
            check_text(name + (definition or ""))
        object.__setattr__(self, "definitions", dict(sorted(self.definitions.items())))

    @property
    def defined(self) -> list[str]:
        """Names of the concepts that have a definition."""
        return [name for name, definition in self.definitions.items() if definition is not None]

    @property
    def digest(self) -> str:
        """sha256 of what `save` writes."""
        return hashlib.sha256(self._text().encode()).hexdigest()

    def definition(self, name: str) -> str | None:
        """The definition of a name in any of its `spellings`, or None."""
        found = (self.definitions.get(spelling) for spelling in spellings(name))
        return next((definition for definition in found if definition is not None), None)

    def save(self, path: Path) -> None:
        """Write one JSON file: equal dictionaries give equal bytes, and a file under this name is always whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.partial")
        temporary.write_text(self._text(), encoding="utf-8")
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> "ConceptDictionary":
        """Read what `save` wrote.

        Raises:
            ValueError: there is none, or it is damaged or of another layout; the message names the file.
        """
        try:
            content = parse_json(read_bounded(path, max_bytes=MAX_JSON_BYTES).decode())
        except (OSError, ValueError) as error:
            raise ValueError(
                f"no concept dictionary in {path}: {error}; `detclip dictionary --help` tells how to make one"
            ) from error
        version = content.get("layout_version") if isinstance(content, dict) else None
        if version != LAYOUT_VERSION:
            raise ValueError(
                f"{path}: layout {version!r} of a concept dictionary, this version reads {LAYOUT_VERSION};"
                " make it again with `detclip dictionary`"
            )
        definitions = content.get("definitions")
        if not isinstance(definitions, dict) or not all(
            value is None or isinstance(value, str) for value in definitions.values()
        ):
            raise ValueError(f"{path}: 'definitions' is not an object of texts and nulls by name")
        try:
            return cls(definitions=definitions)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def _text(self) -> str:
        content = {"layout_version": LAYOUT_VERSION, "definitions": self.definitions}
        return json.dumps(content, indent=0, ensure_ascii=False) + "\n"
