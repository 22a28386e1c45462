"""Object categories of the scenes, and their sampling.

A fixed, curated list of things that Twemoji draws and that English names in one or two words, grouped by theme.
Base concepts have boxes in the detection and grounding scenes; novel ones occur in the captions of the image-text pairs
only, so that whatever a detector knows of them it learnt from image-text pairs. No word of a novel name is a word of a base
name (a box of "hot dog" would otherwise tell where a "dog" is), no two images are near twins, and both splits cover every
theme.
"""

import csv
import hashlib
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from random import Random


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A thing with a name, an image and a definition."""

    name: str  # singular, lower case
    character: str  # the emoji whose Twemoji image shows it
    definition: str  # for LVIS's `def` and for concept enrichment
    split: str  # base or novel


with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as _file:
    CONCEPTS = tuple(
        Concept(name=row["name"], character=row["character"], definition=row["definition"], split=row["split"])
        for row in csv.DictReader(_file)
    )
BASE_NAMES = tuple(concept.name for concept in CONCEPTS if concept.split == "base")
NOVEL_NAMES = tuple(concept.name for concept in CONCEPTS if concept.split == "novel")

MIN_OBJECTS, MAX_OBJECTS = 3, 5  # of a scene
NOVEL_SHARE = 0.5  # of the objects of image-text pairs
_REPEAT_SHARE = 0.15  # of the scenes: the last object is of the first one's concept

# Base concepts are long-tailed, as real categories are: the weight of rank r is 1 / (r + 8) (Zipf-Mandelbrot), which spans a
# factor of ten and leaves none without examples. The order is that of a hash, so that the head is not all animals.
_RANKED_BASE = sorted(BASE_NAMES, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
_CUMULATIVE_WEIGHTS = list(accumulate(1 / (rank + 8) for rank in range(len(_RANKED_BASE))))


def draw_base(rng: Random) -> list[str]:
    """Names for a scene with boxes: base concepts only, as detection benchmarks with held-out classes filter their images."""
    return _with_repeat(
        rng.choices(_RANKED_BASE, cum_weights=_CUMULATIVE_WEIGHTS, k=rng.randint(MIN_OBJECTS, MAX_OBJECTS)), rng
    )


def draw_mixed(rng: Random) -> list[str]:
    """Names for an image-text pair: every other object, on average, is novel; novel concepts are equally likely."""
    names = [
        rng.choice(NOVEL_NAMES)
        if rng.random() < NOVEL_SHARE
        else rng.choices(_RANKED_BASE, cum_weights=_CUMULATIVE_WEIGHTS)[0]
        for _ in range(rng.randint(MIN_OBJECTS, MAX_OBJECTS))
    ]
    return _with_repeat(names, rng)


def _with_repeat(names: list[str], rng: Random) -> list[str]:
    return [*names[:-1], names[0]] if rng.random() < _REPEAT_SHARE else names
