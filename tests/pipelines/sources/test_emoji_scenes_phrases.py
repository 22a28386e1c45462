"""English of the scenes: articles, plurals, and distinctions that are true of the boxes."""

from random import Random

import pytest

from pipelines.sources.emoji_scenes.phrases import counted, enumerated, grounding_phrases, plural, with_article
from pipelines.sources.emoji_scenes.render import PlacedObject


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("owl", "an owl"),
        ("hourglass", "an hourglass"),
        ("unicorn", "a unicorn"),
        ("umbrella", "an umbrella"),
        ("fox", "a fox"),
    ],
)
def test_article_follows_the_sound(name: str, expected: str) -> None:
    assert with_article(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("owl", "owls"),
        ("strawberry", "strawberries"),
        ("toy", "toys"),
        ("wine glass", "wine glasses"),
        ("toothbrush", "toothbrushes"),
        ("fox", "foxes"),
        ("wrench", "wrenches"),
        ("scarf", "scarves"),
        ("snowman", "snowmen"),
    ],
)
def test_plural(name: str, expected: str) -> None:
    assert plural(name) == expected


def test_counted_and_enumerated() -> None:
    assert counted("owl", 1) == "an owl"
    assert counted("red apple", 3) == "three red apples"
    assert enumerated(["an owl"]) == "an owl"
    assert enumerated(["an owl", "a fox", "two taxis"]) == "an owl, a fox and two taxis"


def _phrases_seen(*objects: PlacedObject) -> set[str]:
    """Every phrase that 200 draws give for the objects of a 100-pixel scene."""
    return {p.phrase for seed in range(200) for p in grounding_phrases(objects, Random(seed), size_px=100)}


def test_size_and_place_are_true_of_the_box() -> None:
    small_top_left = PlacedObject(name="fox", box_xyxy=(5, 2, 20, 15))  # side 15, centre (12.5, 8.5)
    assert _phrases_seen(small_top_left) == {"fox", "small fox", "fox on the left", "fox at the top"}
    large_bottom_right = PlacedObject(name="fox", box_xyxy=(60, 62, 98, 100))  # side 38, centre (79, 81)
    assert _phrases_seen(large_bottom_right) == {"fox", "large fox", "fox on the right", "fox at the bottom"}
    medium_in_the_middle = PlacedObject(name="fox", box_xyxy=(35, 35, 65, 65))
    assert _phrases_seen(medium_in_the_middle) == {"fox"}


def test_objects_of_one_concept_share_a_phrase() -> None:
    owl, fox = PlacedObject(name="owl", box_xyxy=(0, 0, 30, 30)), PlacedObject(name="fox", box_xyxy=(35, 35, 65, 65))
    phrases = {p.phrase: p for p in grounding_phrases((owl, fox, owl), Random(1), size_px=100)}
    assert len(phrases) == 2
    (of_owls,) = phrases.keys() - {"fox"}
    assert of_owls in {"owls", "two owls"}
    assert phrases[of_owls].indices == [0, 2] and phrases[of_owls].with_determiner == of_owls
    assert phrases["fox"].indices == [1] and phrases["fox"].with_determiner == "a fox"
