"""Cache of parsed captions on disk, so that no model reads the same caption twice.

A shard whose rows changed has another fingerprint and runs anew: after a new threshold of a filter, a verdict overturned
by `Dedup`, another size of shards, a source that shares captions with one already built. Nearly all of its captions were
parsed before; the cache remembers them one by one.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import TypeAdapter

_ROW = TypeAdapter(tuple[str, list[tuple[str, int, int]]])
_CAPTIONS_PER_QUERY = 500
_WAIT_FOR_OTHERS_S = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Phrase:
    """``text`` is what caption[start:end] reads, in lower case."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedCaption:
    """Phrases of a caption; ``caption`` differs from the one that was parsed where names were replaced."""

    caption: str
    phrases: tuple[Phrase, ...]


class PhraseCache:
    """One SQLite file, by sha256 of the caption. Processes share it; what one writes is there whole or not at all.

    A folder that several machines share must support file locks.
    """

    def __init__(self, folder: Path, *, identity: str) -> None:
        """Open or make the file of an ``identity``: the fingerprint of code, model and settings, which phrases depend on.

        Raises:
            ValueError: the file cannot be made or is damaged.
        """
        self.path = folder / f"{identity[:16]}.sqlite"
        with self._clear_errors():
            folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, timeout=_WAIT_FOR_OTHERS_S)
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS captions (sha256 BLOB PRIMARY KEY, parsed TEXT NOT NULL) WITHOUT ROWID"
            )

    def recall(self, captions: Sequence[str]) -> dict[str, ParsedCaption]:
        """Those of the captions that are known.

        Raises:
            ValueError: the file is damaged.
        """
        known: dict[str, ParsedCaption] = {}
        with self._clear_errors():
            for start in range(0, len(captions), _CAPTIONS_PER_QUERY):
                by_digest = {_digest(caption): caption for caption in captions[start : start + _CAPTIONS_PER_QUERY]}
                marks = ",".join("?" * len(by_digest))
                rows = self._database.execute(f"SELECT * FROM captions WHERE sha256 IN ({marks})", list(by_digest))
                found = {by_digest[digest]: _decode(parsed) for digest, parsed in rows}
                known |= {caption: parsed for caption, parsed in found.items() if parsed is not None}
        return known

    def keep(self, parsed: Mapping[str, ParsedCaption]) -> None:
        """Remember what was parsed, by the caption that was parsed.

        Raises:
            ValueError: the file is damaged, or the disk is full.
        """
        rows = sorted((_digest(caption), _encode(result)) for caption, result in parsed.items())
        with self._clear_errors(), self._database:
            self._database.executemany("INSERT OR IGNORE INTO captions VALUES (?, ?)", rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            how_to_fix = "delete it, which costs parsing anew, or build without one"
            raise ValueError(f"the cache of phrases {self.path} cannot be used ({error}): {how_to_fix}") from error


def _digest(caption: str) -> bytes:
    return hashlib.sha256(caption.encode()).digest()


def _encode(parsed: ParsedCaption) -> str:
    phrases = [[phrase.text, phrase.start, phrase.end] for phrase in parsed.phrases]
    return json.dumps([parsed.caption, phrases], ensure_ascii=False, separators=(",", ":"))


def _decode(parsed: str) -> ParsedCaption | None:
    """None where the row is damaged: its caption is parsed again."""
    try:
        caption, phrases = _ROW.validate_json(parsed)
    except ValueError:
        return None
    return ParsedCaption(caption=caption, phrases=tuple(Phrase(text=t, start=s, end=e) for t, s, e in phrases))
