"""Category names: names that differ in case, blanks or underscores alone are one concept."""

from collections.abc import Iterable, Mapping, Sequence

_NUM_SHOWN = 5


def spaced(name: str) -> str:
    """A name as a person writes it: single blanks within, none around, and blanks for LVIS's underscores."""
    return " ".join(name.replace("_", " ").split())


def concept_key(name: str) -> str:
    """What all spellings of one concept share.

    It is the rule of `detclipv2.text.dictionary.normalise`, by which training keeps positives out of the negatives.
    """
    return spaced(name).lower()


def spellings(names: Iterable[str]) -> dict[str, str]:
    """For each name the spelling to use: the first of those of its concept."""
    first: dict[str, str] = {}
    return {name: first.setdefault(concept_key(name), name) for name in names}


def one_spelling(names: Iterable[str]) -> list[str]:
    """The concepts, each in its first spelling, sorted."""
    return sorted(set(spellings(names).values()))


def unused_note(names: Sequence[str]) -> str:
    """One line about categories that no box of the whole data has."""
    more = f" and {len(names) - _NUM_SHOWN} more" if len(names) > _NUM_SHOWN else ""
    shown = ", ".join(map(repr, names[:_NUM_SHOWN])) + more
    return f"categories without a box are left out, for nobody verified that they are absent: {shown}"


def respelled_note(respelled: Mapping[str, str]) -> list[str]:
    """One line about names that are read in another spelling, none where there is no such name."""
    if not respelled:
        return []
    shown = ", ".join(f"{name!r} as {spelling!r}" for name, spelling in list(respelled.items())[:_NUM_SHOWN])
    more = f", and {len(respelled) - _NUM_SHOWN} more" if len(respelled) > _NUM_SHOWN else ""
    return [f"names that differ in case, blanks or underscores alone are one: {shown}{more}"]
