"""Horizontal flips and texts: left and right are swapped with the image."""

import re

_SIDE_WORDS = re.compile(r"\b(?:left|right)(?:most|wards?)?\b", re.IGNORECASE)
# Other words that a mirrored image makes untrue, and what is written in it, which it makes unreadable, are not looked for.

_ARTICLE = r"(?:the|its|his|her|their|my|your|our)"
_PLACE = r"(?:far|extreme|top|bottom|upper|lower|front|back|rear|middle|center|centre)"
# After a side as a place: the text ends, or there is a mark, or "of" ("the right of way" is none).
_END = (
    r"(?=\s*(?:$|[.,;:!?)]|of\b(?!\s+way)|and\b|is\b|are\b|in\s+the\s+(?:picture|photo|image|foreground|background)\b))"
)
_NOUNS = (
    r"(?:side|hand|arm|leg|foot|eye|ear|shoulder|knee|elbow|wrist|ankle|cheek|paw|hip|thumb|sleeve|glove|shoe|boot|sock"
    r"|corner|edge|half|lane|turn|headlight)s?"
)
_NOT_IDIOM = r"(?!\s+(?:up|in\s+hand|man|men|out)\b)"  # "right side up", "left hand in hand", "right-hand man"

# Each captures the words that name a side.
_SAFE = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # "a dog on the left", "at far right", "to the top left of the tree"
        rf"\b(?:on|to|at|from|in|toward|towards)\s+(?:{_ARTICLE}\s+)?(?:{_PLACE}[\s-]+)?(?P<side>left|right){_END}",
        rf"\b(?:top|bottom|upper|lower)[\s-]+(?P<side>left|right){_END}",
        rf"\b(?P<side>left|right)[\s-]+(?:hand[\s-]+)?{_NOUNS}\b{_NOT_IDIOM}",  # "left shoe", "right-hand side"
        r"\bfrom\s+(?P<side>left|right)\s+to\s+(?P<other>right|left)\b",
        r"\((?:far\s+|top\s+|bottom\s+)?(?P<side>left|right)\)",
        rf"^\s*(?:the\s+)?(?:{_PLACE}[\s-]+)*(?P<side>left|right)\s*$",  # a noun phrase of its own
        r"\b(?P<side>left|right)most\b",
    )
]
_MIRRORED = {"left": "right", "right": "left"}


def mirrored_text(text: str) -> str | None:
    """The text that is true of the mirrored image: left and right are swapped where they surely are sides.

    That is where they are a place ("on the left", "at far right of", "top left"), belong to what has two of its kind ("left
    shoe", "right-hand side"), or stand as "from left to right", "(left)" or "leftmost". What else says left or right is not
    judged: "left over", "right now", "the right of way", "left-wing", "left the house".

    Returns:
        None where the text says left or right in a way that may be no side.
    """
    sides = {match.start(): match for match in _SIDE_WORDS.finditer(text)}
    if not sides:
        return text
    found: dict[int, int] = {}
    for pattern in _SAFE:
        for match in pattern.finditer(text):
            found |= {match.start(name): match.end(name) for name in pattern.groupindex}
    if not sides.keys() <= found.keys():
        return None
    for start, end in sorted(found.items(), reverse=True):
        text = text[:start] + _like(text[start:end]) + text[end:]
    return text


def _like(word: str) -> str:
    """The other side, written as this one is."""
    other = _MIRRORED[word.lower()]
    if word.isupper():
        return other.upper()
    return other.capitalize() if word[0].isupper() else other
