import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detclipv2.data.epochs import Epochs


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any), st.integers(0, 3))
def test_an_epoch_is_every_sample_once_shard_by_shard(counts: list[int], epoch: int) -> None:
    epochs = Epochs(num_samples=counts, seed="0")
    length = sum(counts)
    places = epochs.places(np.arange(epoch * length, (epoch + 1) * length))

    found = list(zip(places.shards.tolist(), places.rows.tolist(), strict=True))
    order = list(dict.fromkeys(places.shards.tolist()))
    assert found == [(shard, row) for shard in order for row in range(counts[shard])]
    assert sorted(order) == [shard for shard, count in enumerate(counts) if count]


def test_positions_may_come_in_any_order_from_several_epochs() -> None:
    epochs = Epochs(num_samples=[3, 0, 4], seed="0")
    positions = list(range(21))
    whole = epochs.places(np.array(positions))
    random.Random(0).shuffle(positions)
    shuffled = epochs.places(np.array(positions))

    assert shuffled.rows.tolist() == whole.rows[positions].tolist()
    assert shuffled.shards.tolist() == whole.shards[positions].tolist()


def test_shards_come_in_another_order_each_epoch_and_for_each_seed() -> None:
    def order(seed: str, epoch: int) -> tuple[int, ...]:
        places = Epochs(num_samples=[1] * 20, seed=seed).places(np.arange(epoch * 20, epoch * 20 + 20))
        return tuple(places.shards.tolist())

    assert len({order(seed, epoch) for seed in "ab" for epoch in range(3)}) == 6
    assert order("a", 2) == order("a", 2)


@pytest.mark.parametrize("epoch", [0, 10**6])
def test_far_positions_are_places_as_near_ones_are(epoch: int) -> None:
    places = Epochs(num_samples=[10_000] * 1300, seed="0").places(np.array([epoch * 13_000_000 + 10_001]))
    assert places.rows.tolist() == [1]
