"""spaCy models, loaded once a process, with no more of them than is used."""

import functools
import importlib.metadata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spacy.language import Language

# What finds noun chunks stays: tok2vec, tagger, parser and attribute_ruler, without which there are none, silently.
_NOT_FOR_PHRASES = ("ner", "lemmatizer", "senter")
_NOT_FOR_NAMES = ("tagger", "parser", "attribute_ruler", "lemmatizer", "senter")


def load_parser(name: str) -> "Language":
    """The model with tagger and parser alone.

    Raises:
        ValueError: it is not installed.
    """
    return _load(name, _NOT_FOR_PHRASES)


def find_person_names(name: str, captions: Sequence[str]) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Each caption with the spans of the names of persons in it.

    Raises:
        ValueError: the model is not installed or recognises no names.
    """
    nlp = _load(name, _NOT_FOR_NAMES)
    if "ner" not in nlp.pipe_names:
        raise ValueError(f"spaCy model {name!r} recognises no names: set person_word=None, or name another model")
    with nlp.memory_zone():
        for caption, doc in zip(captions, nlp.pipe(captions), strict=True):
            names = (entity for entity in doc.ents if entity.label_ == "PERSON")
            yield caption, [(entity.start_char, entity.end_char) for entity in names]


@functools.cache
def model_version(name: str) -> str:
    """The version of an installed model, without loading it where it is a package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return str(load_parser(name).meta["version"])


@functools.cache
def _load(name: str, exclude: tuple[str, ...]) -> "Language":
    import spacy  # it imports torch, which the planning process does without

    try:
        return spacy.load(name, exclude=list(exclude))
    except OSError as error:
        raise ValueError(
            f"spaCy model {name!r} is not installed: install its package, or name another model"
        ) from error
