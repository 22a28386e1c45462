"""robots.txt as RFC 9309 has it: the longest rule wins, with ``*`` and ``$``, which ``urllib.robotparser`` does not know."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote, unquote

MAX_BYTES = 500 * 1024  # that a crawler must read at least; the rest is ignored
TTL_S = 86_400.0
FAILURE_TTL_S = 3_600.0  # a host without an answer stays forbidden so long


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One ``Allow`` or ``Disallow``; ``pattern`` is percent-encoded as paths are."""

    pattern: str
    is_allowed: bool


@dataclass(frozen=True, kw_only=True)
class Robots:
    """The rules of one robots.txt for one robot."""

    rules: tuple[Rule, ...] = ()

    @classmethod
    def parse(cls, text: str, *, product: str) -> Self:
        """Read a robots.txt.

        Args:
            text: as decoded; what is no rule is skipped.
            product: the robot's name in its user agent, such as ``examplebot``. The groups that name it count, or where
                there are none those of ``*``.
        """
        ours: list[Rule] = []
        everyones: list[Rule] = []
        is_named = False
        current: list[list[Rule]] = []  # the lists that the rules of the present group go to
        in_agents = False
        for line in text.splitlines():
            name, _, value = line.partition("#")[0].partition(":")
            name, value = name.strip().lower(), value.strip()
            if name == "user-agent":
                if not in_agents:
                    current = []
                in_agents = True
                if value == "*":
                    current.append(everyones)
                elif value.partition("/")[0].strip().lower() == product.lower():
                    is_named = True
                    current.append(ours)
            elif name in ("allow", "disallow"):
                in_agents = False
                if value:  # "Disallow:" forbids nothing
                    rule = Rule(pattern=_normalized(value), is_allowed=name == "allow")
                    for rules in current:
                        rules.append(rule)
        return cls(rules=tuple(ours if is_named else everyones))

    def allows(self, path: str) -> bool:
        """Whether a path, with its query, may be asked for; of rules of the same length the one that allows wins."""
        wanted = _normalized(path)
        matches = [rule for rule in self.rules if matches_pattern(wanted, rule.pattern)]
        best = max(matches, key=lambda rule: (len(rule.pattern), rule.is_allowed), default=None)
        return best is None or best.is_allowed


def matches_pattern(path: str, pattern: str) -> bool:
    """Whether a path begins with what a pattern describes; the time is linear, unlike a regular expression's."""
    is_anchored = pattern.endswith("$")
    first, *others = pattern.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    return _ends_well(path, len(first), others, is_anchored=is_anchored)


def _ends_well(path: str, start: int, pieces: Sequence[str], *, is_anchored: bool) -> bool:
    if not pieces:
        return not is_anchored or start == len(path)
    *between, last = pieces
    for piece in between:  # the leftmost occurrence leaves the most to the others
        found = path.find(piece, start)
        if found < 0:
            return False
        start = found + len(piece)
    if is_anchored:
        return path.endswith(last) and len(path) - len(last) >= start
    return path.find(last, start) >= 0


def _normalized(path: str) -> str:
    """The same spelling for the same path: only what has a meaning of its own stays percent-encoded."""
    return quote(unquote(path.replace("%2F", "%252F").replace("%2f", "%252F")), safe="%/:=&?~#+!$,;'@()*[]|")
