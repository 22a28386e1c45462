"""Noun phrases of the scenes: English articles, plurals, and the phrases by which an annotator tells objects apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from pipelines.sources.emoji_scenes.render import PlacedObject

_IRREGULAR_PLURALS = {
    "broccoli": "broccoli",
    "scarf": "scarves",
    "snowman": "snowmen",
    "tomato": "tomatoes",
    "volcano": "volcanoes",
}
_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}


def with_article(name: str) -> str:
    """``a zebra``, ``an owl``, ``a unicorn``, ``an hourglass``: by sound, not by letter."""
    vowel = name.startswith(("a", "e", "i", "o", "u", "hour")) and not name.startswith("uni")
    return f"an {name}" if vowel else f"a {name}"


def plural(name: str) -> str:
    """``strawberries`` of ``strawberry``; the last word takes the ending."""
    if name in _IRREGULAR_PLURALS:
        return _IRREGULAR_PLURALS[name]
    if name.endswith(("s", "x", "ch", "sh")):
        return f"{name}es"
    if name.endswith("y") and name[-2] not in "aeiou":
        return f"{name[:-1]}ies"
    return f"{name}s"


def counted(name: str, count: int) -> str:
    """``an owl`` or ``two owls``."""
    return with_article(name) if count == 1 else f"{_NUMBERS[count]} {plural(name)}"


def enumerated(items: list[str]) -> str:
    """``a, b and c``."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


@dataclass(frozen=True, kw_only=True)
class ObjectPhrase:
    """A phrase without determiner and the objects that it names, as indices."""

    phrase: str
    indices: list[int]

    @property
    def with_determiner(self) -> str:
        """The phrase as it stands in a sentence."""
        return with_article(self.phrase) if len(self.indices) == 1 else self.phrase


def category_phrases(objects: Sequence[PlacedObject]) -> list[ObjectPhrase]:
    """The category names of a scene, in the order in which they first occur."""
    return [
        ObjectPhrase(phrase=name, indices=[index for index, o in enumerate(objects) if o.name == name])
        for name in dict.fromkeys(o.name for o in objects)
    ]


def grounding_phrases(objects: Sequence[PlacedObject], rng: Random, *, size_px: int) -> list[ObjectPhrase]:
    """Name every object of a scene, in random order: ``small red apple``, ``guitar on the left``, ``two owls``, ``owl``.

    Size and place are true of the box: small and large compare with the scene's side, left and right with its thirds.
    Objects of one concept are named together, by a number or the bare plural.
    """
    phrases = []
    for named in category_phrases(objects):
        count = len(named.indices)
        if count > 1:
            phrase = rng.choice((plural(named.phrase), counted(named.phrase, count)))
        else:
            phrase = rng.choice((named.phrase, named.phrase, *_distinctions(objects[named.indices[0]], size_px)))
        phrases.append(ObjectPhrase(phrase=phrase, indices=named.indices))
    rng.shuffle(phrases)
    return phrases


def _distinctions(placed: PlacedObject, size_px: int) -> list[str]:
    """Phrases with a size or a place that hold for one object."""
    x1, y1, x2, y2 = placed.box_xyxy
    side = max(x2 - x1, y2 - y1) / size_px
    centre_x, centre_y = (x1 + x2) / 2 / size_px, (y1 + y2) / 2 / size_px
    phrases = {
        f"small {placed.name}": side < 0.22,
        f"large {placed.name}": side > 0.36,
        f"{placed.name} on the left": centre_x < 1 / 3,
        f"{placed.name} on the right": centre_x > 2 / 3,
        f"{placed.name} at the top": centre_y < 1 / 4,
        f"{placed.name} at the bottom": centre_y > 3 / 4,
    }
    return [phrase for phrase, holds in phrases.items() if holds]
