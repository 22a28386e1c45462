"""Caption segments to parse on their own, and where each of their characters is in the caption."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# Titles are joined by lone dashes, bars and slashes. In a caption of lower-case tokens ("close - up of a cat , asleep"), as in
# Conceptual Captions, a lone hyphen is part of a word instead.
_SEPARATOR = re.compile(r"(?<!\s)\s+[-–—|•·~/]+\s+")
_SEPARATOR_OF_TOKENS = re.compile(r"(?<!\s)\s+(?:[–—|•·~/]+|--+)\s+")
_PUNCTUATION_AT_A_WORD = re.compile(r"\w[,.;:!?)](?:\s|$)")
# A list of keywords has none of these words, and no item of more than three.
_SENTENCE_WORDS = "a an the and or of in on at by for from to with is are was were"
_TOKEN = re.compile(r"\S+")
_PLAIN = re.compile(r"[^\s#_]+(?: [^\s#_]+)*")  # no hashtag, no slug with underscores, no other space than single ones
_HUMP = re.compile("(?<=[a-z])(?=[A-Z])")
_NUM_DASHES_OF_A_SLUG = 3  # fewer may be a word: "t-shirt", "three-year-old"


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """``text[i]`` is, or stands for, character ``offsets[i]`` of the caption; offsets never decrease."""

    text: str
    offsets: Sequence[int]


def segments_of(caption: str) -> list[Segment]:
    """Titles between dashes and bars, items of a list of keywords, hashtags.

    Hashtags and slugs are spelled out as words: a hyphen or underscore becomes a space, and a space that the caption
    lacks ("#RedApple") stands for the letter that follows it. White space between words becomes one space.
    """
    is_tokens = caption.islower() and not _PUNCTUATION_AT_A_WORD.search(caption)
    segments = []
    for start, stop in _between(_SEPARATOR_OF_TOKENS if is_tokens else _SEPARATOR, caption):
        for item_start, item_stop in _keywords(caption, start, stop) or [(start, stop)]:
            text = caption[item_start:item_stop].strip(" ")
            if _PLAIN.fullmatch(text) and text.count("-") < _NUM_DASHES_OF_A_SLUG:
                first = caption.index(text, item_start)
                segments.append(Segment(text=text, offsets=range(first, first + len(text))))
                continue
            tokens = [match.span() for match in _TOKEN.finditer(caption, item_start, item_stop)]
            for are_hashtags, group in itertools.groupby(tokens, key=lambda span: caption[span[0]] == "#"):
                words = [_spelled_out(caption, *span) for span in group]
                segments += words if are_hashtags else [_joined(words)]
    return [segment for segment in segments if segment.text]


def _between(separator: re.Pattern[str], caption: str) -> Iterator[tuple[int, int]]:
    start = 0
    for match in separator.finditer(caption):
        yield start, match.start()
        start = match.end()
    yield start, len(caption)


def _keywords(caption: str, start: int, stop: int) -> list[tuple[int, int]]:
    """The items of "kite, beer mug, crab"; none if it is not a list of at least three keywords."""
    items, position = [], start
    for item in caption[start:stop].split(","):
        items.append((position, position + len(item)))
        position += len(item) + 1
    sentence_words = set(_SENTENCE_WORDS.split())
    words = [caption[item_start:item_stop].split() for item_start, item_stop in items]
    is_list = len(items) >= 3 and all(len(item) <= 3 and sentence_words.isdisjoint(item) for item in words)
    return items if is_list else []


def _joined(words: list[Segment]) -> Segment:
    offsets: list[int] = []
    for word in words:
        offsets += [offsets[-1] + 1] if offsets else []
        offsets += word.offsets
    return Segment(text=" ".join(word.text for word in words), offsets=offsets)


def _spelled_out(caption: str, start: int, stop: int) -> Segment:
    """The words of one token: "Red Apple" of "#RedApple", "red apple" of "#red-apple" and "red_apple"."""
    token = caption[start:stop]
    is_hashtag = token.startswith("#")
    if is_hashtag:
        token = token.lstrip("#")
        start = stop - len(token)
    text = token.replace("_", " ")
    if is_hashtag or token.count("-") >= _NUM_DASHES_OF_A_SLUG:
        text = text.replace("-", " ")
    offsets = range(start, stop)
    humps = [match.start() for match in _HUMP.finditer(text)] if is_hashtag else []
    if not humps:
        return Segment(text=text, offsets=offsets)
    parts = list(itertools.pairwise([0, *humps, len(text)]))
    spaced = [offset for a, b in parts for offset in (*offsets[a:b], *offsets[b : b + 1])]
    return Segment(text=" ".join(text[a:b] for a, b in parts), offsets=spaced)
