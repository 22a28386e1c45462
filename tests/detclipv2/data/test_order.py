"""Every sample of an epoch is read once, by whichever workers there are and however often their number changes."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detclipv2.data.order import Order, Segment

Batches = list[list[int]]


def _order(length: int, **changes: Any) -> Order:
    parameters: dict[str, Any] = {
        "supervision": "detection",
        "length": length,
        "seed": 0,
        "samples_per_block": 12,
        "batch_size": lambda world_size: 3,
        "is_portrait": _is_portrait,
    }
    return Order(**parameters | changes)


def _is_portrait(positions: NDArray[np.int64]) -> NDArray[np.bool_]:
    portrait: NDArray[np.bool_] = positions * 2654435761 % 97 < 30
    return portrait


def _segment(world_size: int, loader_workers: int, num_batches: int) -> Segment:
    return Segment(world_size=world_size, loader_workers=loader_workers, num_batches={"detection": num_batches})


def _rank(order: Order, segments: Sequence[Segment], *, rank: int, count: int) -> Batches:
    """The next batches of a rank: its workers in turn, from the one whose turn it is."""
    workers = segments[-1].workers_per_rank
    streams = [_worker(order, segments, rank=rank, worker=worker) for worker in range(workers)]
    done = _taken_with_these_workers(segments)
    return [next(streams[number % workers]) for number in range(done, done + count)]


def _taken_with_these_workers(segments: Sequence[Segment]) -> int:
    """Neighbours of the same workers are one segment."""
    last = segments[-1]
    same = itertools.takewhile(
        lambda segment: (segment.world_size, segment.workers_per_rank) == (last.world_size, last.workers_per_rank),
        reversed(segments),
    )
    return sum(segment.num_batches["detection"] for segment in same)


def _worker(order: Order, segments: Sequence[Segment], *, rank: int, worker: int) -> Iterator[list[int]]:
    for batches in order.blocks(segments, rank=rank, worker=worker):
        yield from batches.tolist()


def _all_ranks(order: Order, segments: Sequence[Segment], count: int) -> Batches:
    world_size = segments[-1].world_size
    return [batch for rank in range(world_size) for batch in _rank(order, segments, rank=rank, count=count)]


shapes = st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(0, 9))  # ranks, loader workers, batches


@settings(deadline=None, max_examples=300)
@given(
    length=st.integers(1, 70),
    samples_per_block=st.integers(1, 20),
    global_batch=st.integers(1, 9),
    history=st.lists(shapes, max_size=4),
    last=st.tuples(st.integers(1, 4), st.integers(0, 3)),
)
def test_every_position_is_read_once(
    length: int,
    samples_per_block: int,
    global_batch: int,
    history: list[tuple[int, int, int]],
    last: tuple[int, int],
) -> None:
    order = _order(
        length,
        samples_per_block=samples_per_block,
        batch_size=lambda world_size: -(-global_batch // world_size),
    )
    read: list[int] = []
    segments: list[Segment] = []
    for world_size, loader_workers, num_batches in history:
        now = [*segments, _segment(world_size, loader_workers, 0)]
        batches = _all_ranks(order, now, num_batches)
        assert {len(batch) for batch in batches} <= {-(-global_batch // world_size)}
        read += [position for batch in batches for position in batch]
        segments.append(_segment(world_size, loader_workers, num_batches))
    # Then to the end of a buffer before which nothing can be left.
    world_size, loader_workers = last
    now = [*segments, _segment(world_size, loader_workers, 0)]
    size = -(-global_batch // world_size)
    workers = world_size * max(1, loader_workers)
    per_block = max(1, min(samples_per_block, length // workers) // size)
    per_buffer = per_block * max(1, loader_workers)  # batches of a rank
    begun = max(read, default=0) // (world_size * size * per_buffer) + 2
    count = begun * per_buffer - _taken_with_these_workers(now) % per_buffer
    read += [position for batch in _all_ranks(order, now, count) for position in batch]
    counts = Counter(read)

    assert set(counts.values()) == {1}, "no position twice"
    assert sorted(counts) == list(range(len(read))), "and none left out"


@settings(deadline=None)
@given(
    length=st.integers(1, 70),
    history=st.lists(shapes, max_size=2),
    now=shapes,
    cuts=st.lists(st.integers(0, 12), min_size=1, max_size=3),
)
def test_a_resumed_run_reads_what_an_undisturbed_one_does(
    length: int, history: list[tuple[int, int, int]], now: tuple[int, int, int], cuts: list[int]
) -> None:
    order = _order(length)
    before = [_segment(*shape) for shape in history]
    world_size, loader_workers, _ = now
    for rank in range(world_size):
        undisturbed = _rank(order, [*before, _segment(world_size, loader_workers, 0)], rank=rank, count=40)
        resumed: Batches = []
        for cut in cuts:
            segments = [*before, _segment(world_size, loader_workers, len(resumed))]
            resumed += _rank(order, segments, rank=rank, count=cut)
        assert resumed == undisturbed[: len(resumed)]


def test_a_restart_with_the_same_workers_is_no_new_segment() -> None:
    order = _order(50)
    once = _all_ranks(order, [_segment(2, 1, 7)], 5)

    assert _all_ranks(order, [_segment(2, 0, 3), _segment(2, 1, 4), _segment(2, 0, 0)], 5) == once
    assert _all_ranks(order, [_segment(2, 0, 3), _segment(1, 0, 0), _segment(2, 1, 4)], 5) != once


def test_what_was_begun_comes_first_after_a_change_of_workers() -> None:
    order = _order(1000)  # blocks of 12 positions
    early = {p for batch in _all_ranks(order, [_segment(2, 0, 0)], 3) for p in batch}  # 18 of the buffer of 24
    later = [p for batch in _all_ranks(order, [_segment(2, 0, 3), _segment(1, 0, 0)], 4) for p in batch]

    assert set(later[:6]) | early != set(range(24)), "mixed into the first block"
    assert set(later) == set(range(30)) - early


def test_a_worker_reads_contiguous_blocks_and_shuffles_them() -> None:
    order = _order(1000, is_portrait=None)
    first, second = itertools.islice(order.blocks([_segment(2, 2, 0)], rank=1, worker=0), 2)

    assert sorted(first.ravel().tolist()) == list(range(24, 36))
    assert sorted(second.ravel().tolist()) == list(range(72, 84))
    assert first.ravel().tolist() != sorted(first.ravel().tolist())
    assert (second - 48).tolist() != first.tolist()


@pytest.mark.parametrize("size", [1, 3, 4])
def test_batches_have_landscape_or_portrait_images(size: int) -> None:
    order = _order(1000, samples_per_block=60, batch_size=lambda world_size: size)
    first_kinds = set()
    for batches in itertools.islice(order.blocks([_segment(1, 0, 0)], rank=0, worker=0), 10):
        portrait = [set(_is_portrait(np.array(batch)).tolist()) for batch in batches.tolist()]
        assert sum(len(kinds) > 1 for kinds in portrait) <= 1
        assert {True} in portrait and {False} in portrait
        first_kinds.add(tuple(sorted(portrait[0])))
    assert len(first_kinds) > 1, "neither kind always comes first"


def test_an_epoch_of_whole_buffers_is_read_before_the_next() -> None:
    batches = _all_ranks(_order(12, samples_per_block=500), [_segment(1, 0, 0)], 8)
    read = [position for batch in batches for position in batch]

    assert sorted(read[:12]) == list(range(12))
    assert [position % 12 for position in read[:12]] != [position % 12 for position in read[12:]]


def test_types_and_seeds_have_orders_of_their_own() -> None:
    orders = [_order(100, seed=seed, is_portrait=None) for seed in (0, 1)]
    grounding = _order(100, supervision="grounding", is_portrait=None)
    found = [
        next(order.blocks([_segment(1, 0, 0)], rank=0, worker=0)).tolist() for order in (*orders, grounding, orders[0])
    ]

    assert found[0] == found[3]
    assert found[0] != found[1] and found[0] != found[2]


def test_starting_late_touches_one_block_alone() -> None:
    asked: list[int] = []

    def portrait(positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        asked.append(len(positions))
        return _is_portrait(positions)

    order = _order(13_000_000, samples_per_block=2048, batch_size=lambda world_size: 192, is_portrait=portrait)
    done = _segment(32, 8, 100_000)
    next(order.blocks([done], rank=17, worker=3))
    assert asked == [1920]
    # With a change of workers, the blocks of the buffers that were begun.
    next(order.blocks([done, _segment(16, 8, 100_000)], rank=3, worker=0))
    assert sum(asked) <= 1920 * (2 + 2 * 32 * 8)
