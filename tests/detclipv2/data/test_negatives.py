import random
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detclipv2.config import Supervision
from detclipv2.data.decode import Sample
from detclipv2.data.negatives import NegativePool, concept_list

VOCABULARY = [f"thing {index}" for index in range(50)]


def _sample(supervision: Supervision, concepts: list[str], caption: str | None = None) -> Sample:
    return Sample(
        key="k",
        supervision=supervision,
        image=torch.zeros(3, 4, 4, dtype=torch.uint8),
        boxes_xyxy=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.long),
        concepts=concepts,
        caption=caption,
    )


def _concepts(sample: Sample, *, seed: int = 0, vocabulary: list[str] = VOCABULARY, **changes: Any) -> list[str]:
    settings: dict[str, Any] = {"negatives": NegativePool(vocabulary), "num_concepts": 10}
    return concept_list(sample, **settings | changes, rng=random.Random(seed))


def test_positives_first_then_distinct_negatives_up_to_the_number() -> None:
    positives = ["thing 7", "thing 3"]

    for seed in range(20):
        concepts = _concepts(_sample("detection", positives), seed=seed)
        assert concepts[:2] == positives
        assert len(concepts) == len(set(concepts)) == 10
        assert set(concepts) <= set(VOCABULARY)


def test_negatives_differ_from_image_to_image_but_not_from_run_to_run() -> None:
    sample = _sample("detection", ["thing 1"])

    assert _concepts(sample, seed=1) == _concepts(sample, seed=1) != _concepts(sample, seed=2)


def test_a_small_vocabulary_gives_what_it_has() -> None:
    assert sorted(_concepts(_sample("detection", ["a"]), vocabulary=["a", "b", "c"], num_concepts=150)) == [
        "a",
        "b",
        "c",
    ]


@pytest.mark.parametrize("num_concepts", [0, 2])
def test_no_positive_is_ever_left_out(num_concepts: int) -> None:
    positives = ["a", "b", "c"]

    assert _concepts(_sample("detection", positives), num_concepts=num_concepts) == positives


def test_a_phrase_with_the_same_head_is_no_negative_of_grounding() -> None:
    vocabulary = ["large dog", "dog", "dog house", "red car", "car"]

    found = _concepts(_sample("grounding", ["black dog", "old car"]), vocabulary=vocabulary)

    assert found == ["black dog", "old car", "dog house"]
    # Categories of detection exclude each other, whatever their last word.
    assert "dog" in _concepts(_sample("detection", ["hot dog"]), vocabulary=vocabulary)


@pytest.mark.parametrize(
    ("positive", "negative"),
    [
        ("two dogs", "black dog"),
        ("a dog", "dogs"),
        ("wine glasses", "glass"),
        ("a bow", "bow (weapon)"),
        ("a Red Car", "car"),
    ],
)
def test_a_head_is_the_same_in_the_plural_with_a_qualifier_and_in_capitals(positive: str, negative: str) -> None:
    found = _concepts(_sample("grounding", [positive]), vocabulary=[negative, "tree"])

    assert found == [positive, "tree"]


@pytest.mark.parametrize("supervision", ["detection", "grounding"])
def test_a_positive_in_another_case_is_no_negative(supervision: Supervision) -> None:
    assert _concepts(_sample(supervision, ["traffic light"]), vocabulary=["Traffic_Light", "tree"]) == [
        "traffic light",
        "tree",
    ]


def test_all_samples_of_negatives_are_equally_likely() -> None:
    rng, pool = random.Random(0), NegativePool(["a", "b", "c", "d", "e", "f"])
    counts = Counter(
        tuple(pool.draw(2, positives=["a", "f"], avoid_shared_heads=False, rng=rng)) for _ in range(12_000)
    )

    assert len(counts) == 12  # ordered pairs of four
    # Binomial with mean 1000 and deviation 30.
    assert all(850 < count < 1150 for count in counts.values()), counts


class _CountingRandom(random.Random):
    num_draws = 0

    def randrange(self, *arguments: Any) -> int:
        self.num_draws += 1
        return super().randrange(*arguments)


def test_a_draw_does_not_walk_the_whole_pool() -> None:
    rng, pool = _CountingRandom(0), NegativePool([f"thing {index}" for index in range(14_000)])
    assert len(pool) == 14_000

    concepts = concept_list(_sample("grounding", ["thing 1"]), negatives=pool, num_concepts=100, rng=rng)

    assert len(concepts) == 100
    assert rng.num_draws <= 100


def test_texts_that_an_encoder_takes_for_the_same_are_one_negative() -> None:
    pool = NegativePool(["Post-it note", "post-it  note", "tree", "tree"])

    assert sorted(pool.draw(9, positives=[], avoid_shared_heads=False, rng=random.Random(0))) == [
        "Post-it note",
        "tree",
    ]


WORDS = st.lists(st.sampled_from(["red", "dog", "dogs", "cat", "box", "boxes", "tree"]), min_size=1, max_size=2)
TEXTS = st.lists(WORDS.map(" ".join), unique=True, max_size=12)


@given(
    positives=TEXTS,
    vocabulary=TEXTS,
    supervision=st.sampled_from(["detection", "grounding"]),
    num_concepts=st.integers(0, 12),
    seed=st.integers(0, 9),
)
def test_what_holds_of_every_list(
    positives: list[str], vocabulary: list[str], supervision: Supervision, num_concepts: int, seed: int
) -> None:
    sample = _sample(supervision, positives)
    found = _concepts(sample, seed=seed, vocabulary=vocabulary, num_concepts=num_concepts)

    one = {"dogs": "dog", "boxes": "box"}
    heads = {one.get(text.split()[-1], text.split()[-1]) for text in positives if supervision == "grounding"}
    admissible = {
        text
        for text in vocabulary
        if text not in positives and one.get(text.split()[-1], text.split()[-1]) not in heads
    }
    assert found[: len(positives)] == positives
    assert len(set(found)) == len(found)
    assert set(found[len(positives) :]) <= admissible
    wanted = max(num_concepts, 1)  # a batch of images without objects has a text, too
    assert len(found) == max(len(positives), min(wanted, len(positives) + len(admissible)))
    assert found == _concepts(sample, seed=seed, vocabulary=vocabulary, num_concepts=num_concepts)


def test_the_caption_counts_as_a_concept() -> None:
    sample = _sample("image_text", ["dog", "park"], "a dog in a park")

    assert _concepts(sample) == ["dog", "park", "a dog in a park"]
    assert _concepts(sample, caption_as_concept=False) == ["dog", "park"]
    assert _concepts(_sample("image_text", ["dog"], "dog")) == ["dog"]
    assert sample.concepts == ["dog", "park"]


@pytest.mark.parametrize(
    ("share", "num_own", "num_others", "expected"),
    [
        (1.0, 30, 30, (0, 8)),
        (0.25, 30, 30, (6, 2)),
        (0.0, 30, 30, (8, 0)),
        (0.25, 3, 30, (3, 5)),  # the other side stands in
        (1.0, 30, 3, (5, 3)),
        (0.5, 2, 3, (2, 3)),
        (1.0, 30, 0, (8, 0)),
    ],
)
def test_share_of_the_dictionary(share: float, num_own: int, num_others: int, expected: tuple[int, int]) -> None:
    own, others = ([f"{kind}{index}" for index in range(count)] for kind, count in (("a", num_own), ("b", num_others)))

    found = concept_list(
        _sample("grounding", ["dog", "owl"]),
        negatives=NegativePool(own),
        dictionary=NegativePool(others),
        dictionary_share=share,
        num_concepts=10,
        rng=random.Random(0),
    )

    assert found[:2] == ["dog", "owl"]
    assert (sum(text in own for text in found), sum(text in others for text in found)) == expected


def test_detection_draws_from_its_own_categories_alone() -> None:
    pools = {"negatives": NegativePool(["cat"]), "dictionary": NegativePool(["kite"])}

    assert concept_list(_sample("detection", ["dog"]), **pools, num_concepts=9, rng=random.Random(0)) == ["dog", "cat"]
