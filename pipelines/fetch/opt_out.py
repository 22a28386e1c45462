"""X-Robots-Tag opt-out headers, by img2dataset's rule."""

import os
from collections.abc import Callable, Sequence
from http.client import HTTPMessage

_DIRECTIVES = frozenset({"noai", "noimageai", "noindex", "noimageindex"})
_DIRECTIVES_WITH_A_VALUE = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})


def load_rule(*, product: str) -> Callable[[Sequence[str]], bool]:
    """Import img2dataset, which takes 3 s (torch, pandas and albumentations come with it): before any deadline runs.

    Args:
        product: the name that sites address this robot by.

    Returns:
        Whether X-Robots-Tag values that address everyone, or this product, keep an image out of training or indexing.
    """
    os.environ.setdefault(
        "NO_ALBUMENTATIONS_UPDATE", "1"
    )  # else albumentations asks the network for its newest version
    from img2dataset.downloader import is_disallowed

    def is_opted_out(values: Sequence[str]) -> bool:
        headers = HTTPMessage()
        for value in values:
            headers["X-Robots-Tag"] = _normalized(value)
        return bool(is_disallowed(headers, product.lower(), _DIRECTIVES))

    return is_opted_out


def _normalized(value: str) -> str:
    """``agent:directives`` where an agent is named, else no colon: img2dataset takes what is before one for an agent."""
    first, colon, rest = value.partition(":")
    agent = first.strip().lower()
    if colon and "," not in agent and agent not in _DIRECTIVES_WITH_A_VALUE:
        return f"{agent}:{rest}"
    return value.replace(":", "=")
