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
        "samples_per_range": 12,
        "batch_size": lambda world_size: 3,
        "is_standing": _is_standing,
    }
    return Order(**parameters | changes)


def _is_standing(positions: NDArray[np.int64]) -> NDArray[np.bool_]:
    standing: NDArray[np.bool_] = positions * 2654435761 % 97 < 30
    return standing


def _segment(world_size: int, loader_workers: int, num_batches: int) -> Segment:
    return Segment(world_size=world_size, loader_workers=loader_workers, num_batches={"detection": num_batches})


def _rank(order: Order, segments: Sequence[Segment], *, rank: int, count: int) -> Batches:
    """The next batches of a rank: its lanes in turn, from the one whose turn it is."""
    lanes = segments[-1].lanes_per_rank
    streams = [_lane(order, segments, rank=rank, lane=lane) for lane in range(lanes)]
    done = _taken_with_these_lanes(segments)
    return [next(streams[number % lanes]) for number in range(done, done + count)]


def _taken_with_these_lanes(segments: Sequence[Segment]) -> int:
    """Neighbours of the same lanes are one segment."""
    last = segments[-1]
    same = itertools.takewhile(
        lambda segment: (segment.world_size, segment.lanes_per_rank) == (last.world_size, last.lanes_per_rank),
        reversed(segments),
    )
    return sum(segment.num_batches["detection"] for segment in same)


def _lane(order: Order, segments: Sequence[Segment], *, rank: int, lane: int) -> Iterator[list[int]]:
    for batches in order.ranges(segments, rank=rank, lane=lane):
        yield from batches.tolist()


def _all_ranks(order: Order, segments: Sequence[Segment], count: int) -> Batches:
    world_size = segments[-1].world_size
    return [batch for rank in range(world_size) for batch in _rank(order, segments, rank=rank, count=count)]


shapes = st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(0, 9))  # workers, loader workers, batches


@settings(deadline=None, max_examples=300)
@given(
    length=st.integers(1, 70),
    samples_per_range=st.integers(1, 20),
    global_batch=st.integers(1, 9),
    history=st.lists(shapes, max_size=4),
    last=st.tuples(st.integers(1, 4), st.integers(0, 3)),
)
def test_every_position_is_read_once(
    length: int,
    samples_per_range: int,
    global_batch: int,
    history: list[tuple[int, int, int]],
    last: tuple[int, int],
) -> None:
    order = _order(
        length,
        samples_per_range=samples_per_range,
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
    # Then to the end of a window before which nothing can be left.
    world_size, loader_workers = last
    now = [*segments, _segment(world_size, loader_workers, 0)]
    size = -(-global_batch // world_size)
    lanes = world_size * max(1, loader_workers)
    per_range = max(1, min(samples_per_range, length // lanes) // size)
    per_window = per_range * max(1, loader_workers)  # batches of a rank
    begun = max(read, default=0) // (world_size * size * per_window) + 2
    count = begun * per_window - _taken_with_these_lanes(now) % per_window
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


def test_a_restart_with_the_same_lanes_is_no_new_segment() -> None:
    order = _order(50)
    once = _all_ranks(order, [_segment(2, 1, 7)], 5)

    assert _all_ranks(order, [_segment(2, 0, 3), _segment(2, 1, 4), _segment(2, 0, 0)], 5) == once
    assert _all_ranks(order, [_segment(2, 0, 3), _segment(1, 0, 0), _segment(2, 1, 4)], 5) != once


def test_what_was_begun_comes_first_after_a_change_of_workers() -> None:
    order = _order(1000)  # ranges of 12 positions
    early = {p for batch in _all_ranks(order, [_segment(2, 0, 0)], 3) for p in batch}  # 18 of the window of 24
    later = [p for batch in _all_ranks(order, [_segment(2, 0, 3), _segment(1, 0, 0)], 4) for p in batch]

    assert set(later[:6]) | early != set(range(24)), "mixed into the first range"
    assert set(later) == set(range(30)) - early


def test_a_lane_reads_contiguous_ranges_and_shuffles_them() -> None:
    order = _order(1000, is_standing=None)
    first, second = itertools.islice(order.ranges([_segment(2, 2, 0)], rank=1, lane=0), 2)

    assert sorted(first.ravel().tolist()) == list(range(24, 36))
    assert sorted(second.ravel().tolist()) == list(range(72, 84))
    assert first.ravel().tolist() != sorted(first.ravel().tolist())
    assert (second - 48).tolist() != first.tolist()


@pytest.mark.parametrize("size", [1, 3, 4])
def test_batches_hold_lying_or_standing_images(size: int) -> None:
    order = _order(1000, samples_per_range=60, batch_size=lambda world_size: size)
    first_kinds = set()
    for batches in itertools.islice(order.ranges([_segment(1, 0, 0)], rank=0, lane=0), 10):
        standing = [set(_is_standing(np.array(batch)).tolist()) for batch in batches.tolist()]
        assert sum(len(kinds) > 1 for kinds in standing) <= 1
        assert {True} in standing and {False} in standing
        first_kinds.add(tuple(sorted(standing[0])))
    assert len(first_kinds) > 1, "neither kind always comes first"


def test_an_epoch_of_whole_windows_is_read_before_the_next() -> None:
    batches = _all_ranks(_order(12, samples_per_range=500), [_segment(1, 0, 0)], 8)
    read = [position for batch in batches for position in batch]

    assert sorted(read[:12]) == list(range(12))
    assert [position % 12 for position in read[:12]] != [position % 12 for position in read[12:]]


def test_types_and_seeds_have_orders_of_their_own() -> None:
    orders = [_order(100, seed=seed, is_standing=None) for seed in (0, 1)]
    grounding = _order(100, supervision="grounding", is_standing=None)
    found = [
        next(order.ranges([_segment(1, 0, 0)], rank=0, lane=0)).tolist() for order in (*orders, grounding, orders[0])
    ]

    assert found[0] == found[3]
    assert found[0] != found[1] and found[0] != found[2]


def test_starting_late_touches_one_range_alone() -> None:
    asked: list[int] = []

    def standing(positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        asked.append(len(positions))
        return _is_standing(positions)

    order = _order(13_000_000, samples_per_range=2048, batch_size=lambda world_size: 192, is_standing=standing)
    done = _segment(32, 8, 100_000)
    next(order.ranges([done], rank=17, lane=3))
    assert asked == [1920]
    # With a change of workers, the ranges of the windows that were begun.
    next(order.ranges([done, _segment(16, 8, 100_000)], rank=3, lane=0))
    assert sum(asked) <= 1920 * (2 + 2 * 32 * 8)
