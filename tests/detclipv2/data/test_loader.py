import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import pytest
import torch

from detclipv2.config import SupervisionConfig
from detclipv2.data.loader import Stream
from detclipv2.data.order import Segment
from detclipv2.data.tar_shards import Shard
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


def _take(stream: Stream, count: int, *, start: int = 0, history: Sequence[Segment] = ()) -> list[Batch]:
    with closing(stream.batches(history, start)) as batches:
        return list(itertools.islice(batches, count))


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
    assert batch.pixels.dtype == torch.uint8
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


def test_captions_of_an_image_take_turns_over_the_epochs(
    write_shard: Callable[..., Shard], annotation: Callable[..., dict[str, Any]]
) -> None:
    """One an epoch; which one depends on seed, epoch and sample, not on the worker or on where a run was resumed."""
    others = [{"caption": caption, "concepts": [caption]} for caption in ("a pet", "an animal")]
    first = {"caption": "a dog", "concepts": ["a dog"], "other_captions": others}
    pair = annotation(supervision="image_text", boxes_xyxy=[], labels=[]) | first
    files = [write_shard(str(shard), {f"{shard}-{i}": pair for i in range(4)}) for shard in range(2)]

    def drawn(batches: list[Batch]) -> list[tuple[str, list[str]]]:
        return [item for batch in batches for item in zip(batch.keys, batch.concepts, strict=True)]

    stream = _stream(files, batch_size=4, supervision="image_text")
    captions = drawn(_take(stream, 30))  # 15 epochs of 8 samples
    by_key: dict[str, list[str]] = {}
    for key, (caption,) in captions:
        by_key.setdefault(key, []).append(caption)
    assert all(len(found) == 15 and len(set(found)) == 3 for found in by_key.values())
    assert len({tuple(found) for found in by_key.values()}) == 8, "samples do not draw alike"
    assert drawn(_take(stream, 25, start=5)) == captions[20:]
    halves = [
        _take(_stream(files, batch_size=2, supervision="image_text", rank=rank, world_size=2), 30) for rank in (0, 1)
    ]
    for epoch in range(15):
        both = [item for half in halves for item in drawn(half[2 * epoch : 2 * epoch + 2])]
        assert sorted(both) == sorted(captions[8 * epoch : 8 * epoch + 8])
    assert drawn(_take(_stream(files, batch_size=4, supervision="image_text", seed=1), 30)) != captions


def test_the_stream_depends_on_its_seed_alone(shards: Callable[..., Shards]) -> None:
    files = shards(5, 1, 6)
    first = _take(_stream(files), 8)

    _assert_same(_take(_stream(list(reversed(files))), 8), first)
    assert _keys(_take(_stream(files, seed=1), 8)) != _keys(first)


@pytest.mark.parametrize(("counts", "world_size"), [((5, 1, 6), 1), ((5, 0, 6), 2), ((2,), 2)])
@pytest.mark.parametrize("start", [1, 4, 9])
def test_a_resumed_stream_goes_on_where_it_stopped(
    shards: Callable[..., Shards], counts: tuple[int, ...], world_size: int, start: int
) -> None:
    files = shards(*counts)

    for rank in range(world_size):
        undisturbed = _take(_stream(files, rank=rank, world_size=world_size), start + 4)
        _assert_same(_take(_stream(files, rank=rank, world_size=world_size), 4, start=start), undisturbed[start:])


@pytest.mark.parametrize("counts", [(4, 4, 4, 4), (8, 0, 8), (16,)])
def test_ranks_share_an_epoch(shards: Callable[..., Shards], counts: tuple[int, ...]) -> None:
    files = shards(*counts)

    for world_size in (2, 4):
        ranks = [_take(_stream(files, batch_size=2, rank=rank, world_size=world_size), 8) for rank in range(world_size)]
        for epoch in range(world_size):
            part = slice(epoch * 8 // world_size, (epoch + 1) * 8 // world_size)
            assert Counter(key for rank in ranks for key in _keys(rank[part])) == Counter(
                f"{shard}-{index:02d}" for shard, count in enumerate(counts) for index in range(count)
            )


def test_another_number_of_workers_reads_what_was_left(shards: Callable[..., Shards]) -> None:
    files = shards(7, 0, 9, 8)
    earlier = [Segment(world_size=2, loader_workers=0, num_batches={"detection": 2, "grounding": 9})]
    before = [batch for rank in range(2) for batch in _take(_stream(files, rank=rank, world_size=2), 2)]
    after = [batch for rank in range(4) for batch in _take(_stream(files, rank=rank, world_size=4), 2, history=earlier)]
    read = Counter([*_keys(before), *_keys(after)])

    assert len(_keys(before)) == 12 and len(_keys(after)) == 24
    assert len(read) == 24, "nothing is left out of the first epoch"
    assert sorted(read.values()) == [1] * 12 + [2] * 12


def test_a_sample_is_augmented_alike_by_whichever_worker_reads_it(shards: Callable[..., Shards]) -> None:
    files = shards(6, 6)
    (alone,) = _take(_stream(files, batch_size=12), 1)
    two = [_take(_stream(files, batch_size=6, rank=rank, world_size=2), 1)[0] for rank in range(2)]

    def samples(batch: Batch) -> dict[str, tuple[list[str], list[float]]]:
        boxes = [boxes.flatten().tolist() for boxes in batch.boxes_xyxy]
        return {key: (batch.concepts[index], boxes[index]) for index, key in enumerate(batch.keys)}

    assert samples(two[0]) | samples(two[1]) == samples(alone)


def test_the_global_batch_is_shared_by_the_workers(shards: Callable[..., Shards]) -> None:
    config = SupervisionConfig(batch_size=2, global_batch_size=8, image_size=32)
    files = shards(8)

    for world_size, size in ((1, 8), (2, 4), (3, 3)):
        (batch,) = _take(_stream(files, config=config, world_size=world_size), 1)
        assert len(batch.keys) == size


def test_a_canvas_is_no_square_where_some_images_are_landscape_and_some_portrait(
    write_shard: Callable[..., Shard], annotation: Callable[..., dict[str, Any]]
) -> None:
    files = [
        write_shard("landscape", {f"l{i}": annotation() for i in range(10)}, size=(48, 32)),
        write_shard("portrait", {f"s{i}": annotation() for i in range(14)}, size=(32, 48)),
    ]
    config = SupervisionConfig(batch_size=4, image_size=48, shorter_size=32)
    batches = _take(_stream(files, config=config), 12)
    shapes = Counter(tuple(batch.pixels.shape[2:]) for batch in batches)

    assert shapes == {(32, 48): 4, (48, 32): 6, (48, 48): 2}


@pytest.mark.parametrize("loader_workers", [1, 2])
@pytest.mark.parametrize("start", [0, 3])
def test_processes_give_the_batches_of_their_workers_in_turn(
    shards: Callable[..., Shards], loader_workers: int, start: int
) -> None:
    stream = _stream(shards(5, 1, 6), loader_workers=loader_workers)
    segments = [Segment(world_size=1, loader_workers=loader_workers, num_batches={"detection": 0})]
    workers = [stream._worker(segments, worker) for worker in range(loader_workers)]
    expected = [next(workers[number % loader_workers]) for number in range(start + 5)]

    _assert_same(_take(stream, 5, start=start), expected[start:])
    if loader_workers == 1:
        _assert_same(_take(_stream(stream.shards), 5, start=start), expected[start:])


@pytest.mark.parametrize("loader_workers", [0, 1])
def test_a_sample_that_cannot_be_decoded_is_named(
    write_shard: Callable[..., Shard], annotation: Callable[..., dict[str, Any]], loader_workers: int
) -> None:
    shard = write_shard("00000", {"good": annotation(), "bad": annotation(labels="x")})

    with pytest.raises(ValueError, match=rf"^{shard.url}, key 'bad': cannot be decoded"):
        _take(_stream([shard], batch_size=2, loader_workers=loader_workers), 1)


@pytest.mark.parametrize("counts", [(0, 0), ()])
def test_no_samples(shards: Callable[..., Shards], counts: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"detection: no sample in {len(counts)} shard\(s\): build a dataset"):
        _take(_stream(shards(*counts)), 1)


def test_fewer_samples_than_a_batch_of_all_workers(shards: Callable[..., Shards]) -> None:
    keys = [key for rank in range(2) for key in _keys(_take(_stream(shards(1, 1), rank=rank, world_size=2), 2))]

    assert Counter(keys) == {"0-00": 6, "1-00": 6}


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
