"""Ranges of configuration values: a value outside of its range is an error before anything is built from it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """A condition on a number, in words and as a function; NaN meets none."""

    words: str
    holds: Callable[[float], bool]


ABOVE_0 = Range("above 0", lambda value: 0 < value < math.inf)
ABOVE_0_OR_INF = Range("above 0; inf for no limit", lambda value: value > 0)
AT_LEAST_0 = Range("at least 0", lambda value: 0 <= value < math.inf)
AT_LEAST_1 = Range("at least 1", lambda value: 1 <= value < math.inf)
FROM_0_TO_1 = Range("from 0 to 1", lambda value: 0 <= value <= 1)
BELOW_1 = Range("at least 0 and below 1", lambda value: 0 <= value < 1)
BETWEEN_0_AND_1 = Range("above 0 and below 1", lambda value: 0 < value < 1)


def whole(least: int, most: int) -> Range:
    """Whole numbers within bounds, which no real model exceeds: a stranger's file chooses no other amount of memory."""
    return Range(
        f"at least {least}, and at most {most:,}", lambda value: least <= value <= most and value == int(value)
    )


def check_ranges(config: Any, **ranges: Range) -> None:
    """Check fields of a configuration by name; one that is None is not given.

    Raises:
        ValueError: a value is outside of its range; the message names the first such field.
    """
    for name, wanted in ranges.items():
        value = getattr(config, name)
        if value is not None and not wanted.holds(value):
            raise ValueError(f"{name} {value}: {wanted.words}")
