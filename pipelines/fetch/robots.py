"""robots.txt by Protego, with the agents matched as RFC 9309 has it, and X-Robots-Tag opt-out headers, by img2dataset's rule.

Protego gives the longest rule precedence, with ``*`` and ``$``, which ``urllib.robotparser`` does not know, and matches in linear
time. It differs from RFC 9309 in what follows; the first three are put right here, before it reads the file:

- It takes an agent for ours that is a part of our name (``exam`` for ``examplebot``), and not one with a version.
- It ends a group of agents at any line, such as ``Crawl-delay``, and then drops the agents before that line.
- It keeps rules for every agent, so that 500 kB of agents and rules become 10^8 rules; here all other agents are one.
- It forgives misspellings (``Dissallow``) and a missing colon, and takes a rule that ends in ``$`` literally, too.
- ``Allow: /a/index.html`` allows ``/a/``, too, as Google's parser has it; ``/robots.txt`` is always allowed.
"""

import os
import re
from collections.abc import Callable, Sequence
from http.client import HTTPMessage
from typing import Self

from protego import Protego

MAX_BYTES = 500 * 1024  # that a crawler must read at least; the rest is ignored
TTL_S = 86_400.0
FAILURE_TTL_S = 3_600.0  # a host without an answer stays forbidden so long

_AGENT = re.compile(r"\s*user(?:-|\s*)agent(?:\s*:|\s)(?P<name>[^#/]*)", re.IGNORECASE)
_RULE = re.compile(r"\s*(?:allow|di\w+w)\b", re.IGNORECASE)  # misspellings of "disallow" included
_OTHER_AGENT = "/"  # part of no product's name
_OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex"})
_DIRECTIVES_WITH_A_VALUE = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})


class Robots:
    """The rules of one robots.txt for one robot."""

    def __init__(self, rules: Protego, *, product: str) -> None:
        self._rules = rules
        self._product = product

    @classmethod
    def parse(cls, text: str, *, product: str) -> Self:
        """Read a decoded robots.txt: the groups of ``product`` (such as ``examplebot``) count, or without any those of ``*``."""
        lines = []
        for line in text.removeprefix("\ufeff").splitlines():
            if agent := _AGENT.match(line):
                name = agent["name"].strip().lower()
                lines.append(f"User-agent: {name if name in ('*', product.lower()) else _OTHER_AGENT}")
            elif _RULE.match(line):
                lines.append(line)
        return cls(Protego.parse("\n".join(lines)), product=product)

    def allows(self, path: str) -> bool:
        """Whether a path, with its query, may be asked for; of rules of the same length the one that allows wins."""
        return self._rules.can_fetch(f"http://host{path}", self._product)


def load_opt_out_rule(*, product: str) -> Callable[[Sequence[str]], bool]:
    """Whether X-Robots-Tag values that address everyone, or this product, keep an image out of training or indexing.

    Imports img2dataset, which takes 3 s (torch, pandas and albumentations come with it): before any deadline runs.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks the network for its newest version
    from img2dataset.downloader import is_disallowed

    def is_opted_out(values: Sequence[str]) -> bool:
        headers = HTTPMessage()
        for value in values:
            headers["X-Robots-Tag"] = _normalized(value)
        return bool(is_disallowed(headers, product.lower(), _OPT_OUTS))

    return is_opted_out


def _normalized(value: str) -> str:
    """``agent:directives`` where an agent is named, else no colon: img2dataset takes what is before one for an agent."""
    first, colon, rest = value.partition(":")
    agent = first.strip().lower()
    if colon and "," not in agent and agent not in _DIRECTIVES_WITH_A_VALUE:
        return f"{agent}:{rest}"
    return value.replace(":", "=")
