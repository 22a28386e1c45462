"""Sampling of the concepts of a scene."""

import hashlib
from collections.abc import Sequence
from itertools import accumulate
from random import Random

from pipelines.sources.emoji_scenes.emoji_concepts import BASE_NAMES, NOVEL_NAMES

MIN_OBJECTS, MAX_OBJECTS = 3, 5
NOVEL_SHARE = 0.5  # of the objects of image-text pairs
_REPEAT_SHARE = 0.15  # of the scenes: the last object is of the first one's concept

# Base concepts are long-tailed, as real categories are: the weight of rank r is 1 / (r + 8) (Zipf-Mandelbrot), which spans a
# factor of ten and leaves none without examples. The order is that of a hash, so that the head is not all animals.
_RANKED_BASE = sorted(BASE_NAMES, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
_CUMULATIVE_WEIGHTS = list(accumulate(1 / (rank + 8) for rank in range(len(_RANKED_BASE))))


def draw_base(rng: Random) -> list[str]:
    """Names for a scene with boxes: base concepts only, as detection benchmarks with held-out classes filter their images."""
    return _with_repeat(rng.choices(_RANKED_BASE, cum_weights=_CUMULATIVE_WEIGHTS, k=_num_objects(rng)), rng)


def draw_mixed(rng: Random) -> list[str]:
    """Names for an image-text pair: every other object, on average, is novel; novel concepts are equally likely."""
    names = [
        rng.choice(NOVEL_NAMES)
        if rng.random() < NOVEL_SHARE
        else rng.choices(_RANKED_BASE, cum_weights=_CUMULATIVE_WEIGHTS)[0]
        for _ in range(_num_objects(rng))
    ]
    return _with_repeat(names, rng)


def _num_objects(rng: Random) -> int:
    return rng.randint(MIN_OBJECTS, MAX_OBJECTS)


def _with_repeat(names: Sequence[str], rng: Random) -> list[str]:
    return [*names[:-1], names[0]] if rng.random() < _REPEAT_SHARE else list(names)
