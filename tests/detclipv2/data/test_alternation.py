from collections import Counter
from itertools import pairwise

import pytest

from detclipv2.config import Supervision
from detclipv2.data.alternation import alternation

SAMPLES: dict[Supervision, int] = {"detection": 100, "grounding": 41, "image_text": 640}
BATCHES: dict[Supervision, int] = {"detection": 10, "grounding": 10, "image_text": 64}
EPOCH = {"detection": 10, "grounding": 5, "image_text": 10}


def test_an_epoch_passes_over_every_dataset_once() -> None:
    schedule = alternation(SAMPLES, BATCHES, num_steps=75, seed=0)

    for epoch in (schedule[:25], schedule[25:50], schedule[50:]):
        assert Counter(epoch) == EPOCH
    assert schedule[:25] != schedule[25:50]
    assert any(a != b != c for (a, b), (_, c) in pairwise(pairwise(schedule[:25])))


def test_the_schedule_depends_on_the_seed_alone() -> None:
    schedule = alternation(SAMPLES, BATCHES, num_steps=60, seed=3)
    in_another_order = dict(reversed(SAMPLES.items()))

    assert alternation(in_another_order, BATCHES, num_steps=60, seed=3) == schedule
    assert alternation(SAMPLES, BATCHES, num_steps=60, seed=4) != schedule
    # A longer run begins like a shorter one.
    assert alternation(SAMPLES, BATCHES, num_steps=33, seed=3) == schedule[:33]


def test_more_ranks_mean_fewer_steps_an_epoch() -> None:
    twice = {name: 2 * size for name, size in BATCHES.items()}

    assert Counter(alternation(SAMPLES, twice, num_steps=13, seed=0)) == {
        "detection": 5,
        "grounding": 3,
        "image_text": 5,
    }


def test_a_type_without_samples_is_left_out() -> None:
    assert set(alternation(SAMPLES | {"grounding": 0}, BATCHES, num_steps=100, seed=0)) == {"detection", "image_text"}


def test_image_text_pairs_may_begin_later() -> None:
    schedule = alternation(SAMPLES, BATCHES, num_steps=90, seed=0, image_text_after=40)

    assert len(schedule) == 90
    assert "image_text" not in schedule[:40]
    assert Counter(schedule[40:65]) == Counter(schedule[65:90]) == EPOCH


@pytest.mark.parametrize("num_steps", [1, 24, 39, 40])
def test_a_training_may_end_before_image_text_pairs_begin(num_steps: int) -> None:
    schedule = alternation(SAMPLES, BATCHES, num_steps=num_steps, seed=0, image_text_after=40)

    assert schedule == alternation(SAMPLES, BATCHES, num_steps=90, seed=0, image_text_after=40)[:num_steps]


def test_each_segment_is_shuffled_anew() -> None:
    first, second, third = (alternation(SAMPLES, BATCHES, num_steps=50, seed=0, segment=number) for number in range(3))

    assert first == alternation(SAMPLES, BATCHES, num_steps=50, seed=0)
    assert first != second != third != first
    assert all(Counter(one[:25]) == Counter(one[25:]) == EPOCH for one in (second, third))


def test_no_samples_at_all() -> None:
    with pytest.raises(ValueError, match="no supervision type has any sample"):
        alternation({"detection": 0}, {"detection": 4}, num_steps=3, seed=0)
    with pytest.raises(ValueError, match="image_text_after must be 0 without boxed data"):
        alternation({"image_text": 9}, {"image_text": 4}, num_steps=3, seed=0, image_text_after=2)
