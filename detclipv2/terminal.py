"""Terminal output: what a name, a path or a caption holds reaches a terminal as text, never as a command to it.

Escape sequences retitle a window, hide lines or type answers; C1 codes are the same in one character; bidirectional overrides
let a text read as another. Rich's markup in data would colour it, or end in an error.
"""

import json
import re
import sys
from collections.abc import Iterable
from typing import Any, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

REPLACEMENT = "\ufffd"
# C0 (less tab and line feed), DEL, C1, line and paragraph separators, bidirectional embeddings, overrides and isolates, and
# lone surrogates, which no stream can encode.
_ACTIVE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# What redraws a progress bar of a library (a download's): a write that begins at the line's start, or moves up alone.
_REDRAWN = re.compile(r"\r(?!\n)|(?:\x1b\[A)+\Z")


def printable(text: str) -> str:
    """The text with a replacement character for each that a terminal would act on; tabs and line feeds stay."""
    return _ACTIVE.sub(REPLACEMENT, text)


def printable_json(text: str) -> str:
    """JSON that parses to the same value, with an escape by number for each character that a terminal would act on."""
    return _ACTIVE.sub(lambda found: json.dumps(found[0])[1:-1], text)


class InertStream:
    """A text stream in front of another, to which it writes `printable` text; all else is the other's."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def rich_proxied_file(self) -> TextIO:
        """Where Rich writes, which draws with escape sequences of its own; `InertConsole` has made its texts printable."""
        return self._stream

    def write(self, text: str) -> int:
        """Write a text, and with a question mark what the stream's encoding does not have."""
        redrawn = _REDRAWN.match(text)
        start = redrawn.end() if redrawn else 0
        inert = text[:start] + printable(text[start:])
        try:
            self._stream.write(inert)
        except UnicodeEncodeError as error:
            self._stream.write(inert.encode(error.encoding, "replace").decode(error.encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write one text after the other."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class InertConsole(Console):
    """A Rich console that prints data as it is: no markup, no emoji codes, no control characters in texts."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**({"markup": False, "emoji": False} | options))

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of a renderable; what moves the cursor is Rich's own."""
        for segment in super().render(renderable, options):
            is_inert = segment.control or not _ACTIVE.search(segment.text)
            yield segment if is_inert else Segment(printable(segment.text), segment.style)


def make_output_inert() -> None:
    """From now on this process prints `printable` text alone, to stdout and to stderr, whoever prints it."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, InertStream):
            setattr(sys, name, cast(TextIO, InertStream(stream)))
