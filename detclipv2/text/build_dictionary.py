"""Command ``detclip dictionary``: a concept dictionary from category lists and WordNet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from detclipv2.text.category_lists import Category, read_categories
from detclipv2.text.dictionary import ConceptDictionary, normalise, spellings, without_qualifier
from detclipv2.text.wordnet import WordNet

_FREQUENCIES = ("f", "c", "r")  # of LVIS, the most frequent first


@dataclass(frozen=True, kw_only=True)
class DictionaryOptions:
    """Make a concept dictionary: names of things with definitions, from category lists and WordNet."""

    categories: tuple[Path, ...]
    """Category lists: a .txt of one name a line, or JSON: a list of names, or COCO or LVIS categories or annotations.
    Definitions that come with a list, as LVIS's do, take precedence over WordNet's."""
    wordnet: Path | None = None
    """Folder with WordNet's index.noun, data.noun and noun.exc; Debian's wordnet-base has them in /usr/share/wordnet."""
    out: Path = Path("concepts.json")
    """Where to write."""


def own_definitions(categories: Sequence[Category]) -> dict[str, str]:
    """Definitions that category lists bring along, for names, synonyms, and both without the parenthesis at their end.

    Where several categories claim a text, it goes to the one whose name it is, then to one of which it is a synonym, then in
    the same order to those that have it with a parenthesis behind ("cap" to "cap_(headwear)", not to the bottle cap's synonym
    "cap_(container_lid)"); among equals to the more frequent one, then to the first.
    """
    claims: dict[str, tuple[int, int, int]] = {}
    for number, category in enumerate(categories):
        if category.definition is None:
            continue
        frequency = _FREQUENCIES.index(category.frequency) if category.frequency in _FREQUENCIES else len(_FREQUENCIES)
        for synonym, text in enumerate((category.name, *category.synonyms)):
            exact = normalise(text)
            for qualified, name in enumerate(dict.fromkeys((exact, without_qualifier(exact)))):
                claim = (2 * qualified + min(synonym, 1), frequency, number)
                claims[name] = min(claims.get(name, claim), claim)
    return {name: str(categories[number].definition) for name, (_, _, number) in claims.items()}


def build_dictionary(categories: Sequence[Category], *, wordnet: WordNet | None = None) -> ConceptDictionary:
    """All names and synonyms of category lists; under each of its `spellings` an own definition comes first, then WordNet's."""
    own = own_definitions(categories)

    def define(name: str) -> str | None:
        for spelling in spellings(name):
            definition = own.get(spelling) or (wordnet.definition(spelling) if wordnet else None)
            if definition:
                return definition
        return None

    names = [normalise(text) for category in categories for text in (category.name, *category.synonyms)]
    return ConceptDictionary(definitions={name: define(name) for name in [*names, *own]})


def dictionary(options: Annotated[DictionaryOptions, tyro.conf.arg(name="")]) -> None:
    """Make a concept dictionary of category lists and WordNet.

    Raises:
        ValueError: there is no list, or a list or the WordNet database cannot be read.
    """
    if not options.categories:
        raise ValueError("--categories: name one category list at least")
    wordnet = None if options.wordnet is None else WordNet(options.wordnet)
    lists = {str(path): read_categories(path) for path in options.categories}
    everything = [category for categories in lists.values() for category in categories]
    built = build_dictionary(everything, wordnet=wordnet)
    built.save(options.out)
    print(_summary(built, lists, out=options.out))


def _summary(built: ConceptDictionary, lists: Mapping[str, Sequence[Category]], *, out: Path) -> str:
    num_defined = len(built.defined)
    own = {category.definition for categories in lists.values() for category in categories if category.definition}
    num_own = sum(definition in own for definition in built.definitions.values())
    lines = [
        f"{out}: {len(built.definitions):,} concepts, {num_defined:,} with a definition"
        f" ({num_own:,} from category lists, {num_defined - num_own:,} from WordNet)"
    ]
    for path, categories in lists.items():
        names = {normalise(text) for category in categories for text in (category.name, *category.synonyms)}
        defined = sum(built.definitions[name] is not None for name in names)
        lines.append(f"  {path}: {len(categories):,} categories, {len(names):,} names, {defined:,} with a definition")
    return "\n".join(lines)
