import random
from typing import Any

import pytest
import torch

from detclipv2.config import Supervision
from detclipv2.data.concepts import concept_list
from detclipv2.data.decode import Sample

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


def _concepts(sample: Sample, *, seed: int = 0, **changes: Any) -> list[str]:
    settings: dict[str, Any] = {"vocabulary": VOCABULARY, "num_concepts": 10}
    return concept_list(sample, **settings | changes, rng=random.Random(seed))


def test_positives_first_then_distinct_negatives_up_to_the_number() -> None:
    positives = ["thing 7", "thing 3"]

    for seed in range(20):
        concepts = _concepts(_sample("detection", positives), seed=seed)
        assert concepts[:2] == positives
        assert len(concepts) == len(set(concepts)) == 10
        assert set(concepts) <= set(VOCABULARY)


def test_negatives_differ_from_picture_to_picture_but_not_from_run_to_run() -> None:
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


def test_the_caption_counts_as_a_concept() -> None:
    sample = _sample("image_text", ["dog", "park"], "a dog in a park")

    assert _concepts(sample) == ["dog", "park", "a dog in a park"]
    assert _concepts(sample, caption_as_concept="off") == ["dog", "park"]
    assert _concepts(_sample("image_text", ["dog"], "dog")) == ["dog"]
    assert sample.concepts == ["dog", "park"]
