import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from detclipv2.config import SupervisionConfig
from detclipv2.data.loader import Stream
from detclipv2.data.shards import Shard
from detclipv2.structures import Batch

Shards = list[Shard]


@pytest.fixture
def shards(write_shard: Callable[..., Shard], annotation: Callable[..., dict[str, Any]]) -> Callable[..., Shards]:
    """Shards of as many samples as given, with keys ``<shard>-<sample>``."""

    def make(*counts: int) -> Shards:
        return [
            write_shard(f"{shard:05d}", {f"{shard}-{index:02d}": annotation() for index in range(count)}, size=(32, 16))
            for shard, count in enumerate(counts)
        ]

    return make


def _stream(shards: Shards, *, batch_size: int = 3, rank: int = 0, world_size: int = 1, **changes: Any) -> Stream:
    settings: dict[str, Any] = {
        "supervision": "detection",
        "shards": shards,
        "config": SupervisionConfig(batch_size=batch_size, image_size=32, num_concepts=4),
        "vocabulary": [f"thing {index}" for index in range(30)],
        "seed": 0,
    }
    return Stream(**settings | changes, rank=rank, world_size=world_size)


def _take(stream: Stream, count: int, *, start: int = 0) -> list[Batch]:
    return list(itertools.islice(stream.batches(done=start), count))


def _keys(batches: list[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.keys]


def _assert_same(found: list[Batch], wanted: list[Batch]) -> None:
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.keys == theirs.keys
        assert ours.concepts == theirs.concepts
        assert ours.image_sizes_hw == theirs.image_sizes_hw
        assert torch.equal(ours.pixels, theirs.pixels)
        assert all(torch.equal(a, b) for a, b in zip(ours.boxes_xyxy, theirs.boxes_xyxy, strict=True))


def test_a_batch(shards: Callable[..., Shards]) -> None:
    (batch,) = _take(_stream(shards(5)), 1)

    assert batch.supervision == "detection"
    assert batch.pixels.shape == (3, 3, 32, 32)
    assert batch.image_sizes_hw == [(16, 32)] * 3
    assert [boxes.shape for boxes in batch.boxes_xyxy] == [(1, 4)] * 3
    assert [labels.tolist() for labels in batch.labels] == [[0]] * 3
    assert all(concepts[0] == "dog" and len(set(concepts)) == 4 for concepts in batch.concepts)


def test_an_epoch_holds_every_sample_once_in_another_order_than_the_next(shards: Callable[..., Shards]) -> None:
    every = [f"{shard}-{index:02d}" for shard, count in enumerate((5, 1, 6)) for index in range(count)]

    keys = _keys(_take(_stream(shards(5, 1, 6)), 8))

    assert sorted(keys[:12]) == sorted(keys[12:]) == every
    assert keys[:12] != keys[12:]
    assert keys[:12] != every


def test_augmentation_and_negatives_differ_from_epoch_to_epoch(shards: Callable[..., Shards]) -> None:
    batches = _take(_stream(shards(4), batch_size=4), 8)

    assert len({tuple(concepts) for batch in batches for concepts in batch.concepts}) > 20
    assert len({float(boxes[0, 0]) for batch in batches for boxes in batch.boxes_xyxy}) == 2  # flipped and not


def test_the_stream_depends_on_its_seed_alone(shards: Callable[..., Shards]) -> None:
    files = shards(5, 1, 6)
    first = _take(_stream(files), 8)

    _assert_same(_take(_stream(list(reversed(files))), 8), first)
    assert _keys(_take(_stream(files, seed=1), 8)) != _keys(first)


@pytest.mark.parametrize(("counts", "world_size"), [((5, 1, 6), 1), ((5, 4, 6), 2), ((11,), 2)])
@pytest.mark.parametrize("start", [1, 4, 9])
def test_a_resumed_stream_goes_on_where_it_stopped(
    shards: Callable[..., Shards], counts: tuple[int, ...], world_size: int, start: int
) -> None:
    files = shards(*counts)

    for rank in range(world_size):
        undisturbed = _take(_stream(files, rank=rank, world_size=world_size), start + 4)
        _assert_same(_take(_stream(files, rank=rank, world_size=world_size), 4, start=start), undisturbed[start:])


@pytest.mark.parametrize("counts", [(4, 4, 4, 4), (8, 8), (16,)])
def test_ranks_share_an_epoch(shards: Callable[..., Shards], counts: tuple[int, ...]) -> None:
    files = shards(*counts)

    for world_size in (2, 4):
        ranks = [_take(_stream(files, batch_size=4, rank=rank, world_size=world_size), 4) for rank in range(world_size)]
        share = 16 // world_size
        epoch = Counter(key for rank in ranks for key in _keys(rank)[:share])
        assert len(epoch) == 16, "every sample is read by one rank"
        if world_size == 2:
            assert Counter(key for rank in ranks for key in _keys(rank)[share:]) == epoch


def test_a_sample_that_cannot_be_decoded_is_named(
    write_shard: Callable[..., Shard], annotation: Callable[..., dict[str, Any]]
) -> None:
    shard = write_shard("00000", {"good": annotation(), "bad": annotation(labels="x")})

    with pytest.raises(ValueError, match=rf"^{shard.url}, key 'bad': cannot be decoded"):
        _take(_stream([shard], batch_size=2), 1)


@pytest.mark.parametrize(("counts", "world_size"), [((0, 0), 1), ((1, 0), 2), ((), 1)])
def test_fewer_samples_than_ranks(shards: Callable[..., Shards], counts: tuple[int, ...], world_size: int) -> None:
    found = rf"{sum(counts)} sample\(s\) in {len(counts)} shard\(s\) for {world_size} worker\(s\)"
    with pytest.raises(ValueError, match=f"detection: {found}; every worker needs one"):
        _take(_stream(shards(*counts), world_size=world_size), 1)


def test_a_category_is_encoded_with_its_definition(shards: Callable[..., Shards]) -> None:
    texts = {"dog": "dog, a pet", "thing 3": "thing 3, the third"}
    (plain,) = _take(_stream(shards(3)), 1)
    (enriched,) = _take(_stream(shards(3), texts=texts), 1)

    # The same negatives are drawn, whatever is encoded for them.
    assert enriched.concepts == [[texts.get(name, name) for name in names] for names in plain.concepts]
    assert all(concepts[0] == "dog, a pet" for concepts in enriched.concepts)


def test_a_concept_that_is_a_phrase_of_the_dataset_comes_once(
    write_shard: Callable[..., Shard], annotation: Callable[..., dict[str, Any]]
) -> None:
    shard = write_shard("00000", {"0-00": annotation(supervision="grounding")})
    stream = _stream([shard], batch_size=1, supervision="grounding", vocabulary=["cat"], dictionary=["Cat", "kite"])
    (batch,) = _take(stream, 1)

    assert sorted(batch.concepts[0]) == ["cat", "dog", "kite"]
