"""robots.txt by Protego, with the agents matched as RFC 9309 has it, and X-Robots-Tag opt-out headers, by img2dataset's rule.

Protego gives the longest rule precedence, with ``*`` and ``$``, which ``urllib.robotparser`` does not know, and matches in linear
time. It differs from RFC 9309 in what follows; the first four are put right here, before it reads the file:

- It takes an agent for ours that is a part of our name (``exam`` for ``examplebot``), and not one with a version.
- It ends a group of agents at any line, such as ``Crawl-delay``, and then drops the agents before that line.
- It keeps rules for every agent, so that 500 kB of agents and rules become 10^8 rules.
- It keeps a rule as often as its group names an agent: 63 kB of ``User-agent: *`` and rules cost minutes. Here the rules that
  count are found first, each once, and Protego gets these alone, as one group.
- It forgives misspellings (``Dissallow``) and a missing colon, and takes a rule that ends in ``$`` literally, too.
- ``Allow: /a/index.html`` allows ``/a/``, too, as Google's parser has it; ``/robots.txt`` is always allowed.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPMessage
from typing import Self

from protego import Protego

MAX_BYTES = 500 * 1024  # that a crawler must read at least; the rest is ignored
TTL_S = 86_400.0
FAILURE_TTL_S = 3_600.0  # a host without an answer stays forbidden so long

_AGENT = re.compile(r"\s*user(?:-|\s*)agent(?:\s*:|\s)(?P<name>[^#/]*)", re.IGNORECASE)
_RULE = re.compile(r"\s*(?:allow|di\w+w)\b", re.IGNORECASE)  # misspellings of "disallow" included
# Matching takes some microseconds a rule and URL. Whoever has more distinct rules is not asked for anything.
MAX_RULES = 10_000
_NOTHING_ALLOWED = "Disallow: /"
_OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})  # none: noindex, nofollow
_PRODUCT = re.compile(r"[^\s\d][^\s]*")  # a date with a comma has colons, too
_DIRECTIVES_WITH_A_VALUE = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})


class Robots:
    """The rules of one robots.txt for one robot."""

    def __init__(self, rules: Protego, *, num_rules: int) -> None:
        self._rules = rules
        self.num_rules = num_rules

    @classmethod
    def parse(cls, text: str, *, product: str) -> Self:
        """Read a decoded robots.txt: the groups of ``product`` (such as ``examplebot``) count, or without any those of ``*``.

        With more than `MAX_RULES` distinct rules nothing is allowed.
        """
        ours = product.lower()
        rules: dict[str, dict[str, None]] = {}  # by agent, in order
        agents: set[str] = set()
        is_group_open = False  # consecutive lines of agents are one group
        for line in text.removeprefix("\ufeff").splitlines():
            if agent := _AGENT.match(line):
                agents = agents if is_group_open else set()
                agents.add(agent["name"].strip().lower())
                is_group_open = True
            elif _RULE.match(line):
                is_group_open = False
                for name in agents & {ours, "*"}:
                    rules.setdefault(name, {})[line.strip()] = None
            for name in agents & {ours}:
                rules.setdefault(name, {})  # a group without a rule forbids nothing
        chosen = list(rules.get(ours, rules.get("*", {})))
        chosen = chosen if len(chosen) <= MAX_RULES else [_NOTHING_ALLOWED]
        return cls(Protego.parse("\n".join(["User-agent: *", *chosen])), num_rules=len(chosen))

    def allows(self, path: str) -> bool:
        """Whether a path, with its query, may be asked for; of rules of the same length the one that allows wins."""
        return self._rules.can_fetch(f"http://host{path}", "*")


def load_opt_out_rule(*, product: str) -> Callable[[Sequence[str]], bool]:
    """Whether X-Robots-Tag values that address everyone, or this product, keep an image out of training or indexing.

    Imports img2dataset, which takes 3 s (torch, pandas and albumentations come with it): before any deadline runs.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks the network for its newest version
    from img2dataset.downloader import is_disallowed

    def is_opted_out(values: Sequence[str]) -> bool:
        headers = HTTPMessage()
        for value in values:
            for directive in _directives(value):
                headers["X-Robots-Tag"] = directive
        return bool(is_disallowed(headers, product.lower(), _OPT_OUTS))

    return is_opted_out


def _directives(value: str) -> Iterator[str]:
    """The directives of a header one by one, each as ``agent:directive``, or alone where no agent is named before it.

    A proxy may have joined several headers with commas. What img2dataset finds before a colon is an agent to it.
    """
    agent = ""
    for part in value.split(","):
        name, colon, rest = (piece.strip().lower() for piece in part.partition(":"))
        if colon and _PRODUCT.fullmatch(name) and name not in _DIRECTIVES_WITH_A_VALUE:
            agent, name = f"{name}:", rest
        yield agent + name
