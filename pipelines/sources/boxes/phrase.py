"""Grounding phrases: an annotated phrase as the text of its boxes."""

import itertools

# English determiners and possessives, which noun phrases of captions lose as well (`pipelines.stages.noun_phrases`).
_LEADING = (
    "a an the this that these those some any each every all another both either neither no "
    "my your his her its our their whose"
)
_PRONOUNS = (
    "i me you he him she it we us they them one ones himself herself itself themselves who which what there others "
    "someone somebody something anyone everyone everything mine yours hers ours theirs each other"
)
_EDGE_PUNCTUATION = " -–—.,:;!?'\"“”‘’()[]{}|/*&+"


def annotated_phrase(text: str) -> str | None:
    """The phrase in lower case, without leading determiners and possessives; None where nothing, or a pronoun, is left."""
    words = text.lower().strip(_EDGE_PUNCTUATION).split()
    words = list(itertools.dropwhile(_LEADING.split().__contains__, words))
    phrase = " ".join(words).strip(_EDGE_PUNCTUATION)
    is_pronoun = set(words) <= set(_PRONOUNS.split())
    return None if is_pronoun or not any(character.isalpha() for character in phrase) else phrase
