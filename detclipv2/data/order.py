"""Which samples a worker reads, and in which order.

The endless row of positions of ``epochs.py`` is cut into windows, a window into as many ranges as there are lanes, and a range
is shuffled into batches. A lane is what one process reads, or a thread: its ranges are contiguous, so that it reads each of its
bytes once and nearly in sequence. All batches are full and no rank waits for another, whatever the number of samples.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detclipv2.config import Supervision
from detclipv2.data.epochs import Positions


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of a training in which as many workers as before took batches: from it follows what they have read."""

    world_size: int
    loader_workers: int
    num_batches: Mapping[Supervision, int]  # that each worker took, by type

    @property
    def lanes_per_rank(self) -> int:
        """Processes, or the one thread, that read for a worker: its batch n comes from lane n mod this."""
        return max(1, self.loader_workers)


@dataclass(frozen=True, kw_only=True)
class _Unread:
    """What a segment has to read: some positions before ``start``, ascending, then all from ``start`` on."""

    rest: Positions
    start: int

    def positions(self, first: int, count: int) -> Positions:
        """The unread positions number ``first`` to ``first + count``."""
        rest = self.rest[first : first + count]
        start = self.start + max(0, first - len(self.rest))
        return np.concatenate([rest, np.arange(start, start + count - len(rest), dtype=np.int64)])

    def after(self, first: int) -> "_Unread":
        """Without the first positions."""
        return _Unread(rest=self.rest[first:], start=self.start + max(0, first - len(self.rest)))


@dataclass(frozen=True, kw_only=True)
class Order:
    """The order of the samples of one supervision type.

    Args:
        supervision: the type.
        length: N, samples of an epoch, at least one.
        seed: shuffles.
        samples_per_range: about as many samples are read in one go by a lane, and shuffled; fewer where an epoch has no
            window of such ranges.
        batch_size: samples of a batch of one worker, by the number of workers.
        is_standing: whether the images at some positions are higher than wide. Given, batches are of lying or of standing
            images alone, except for one of each range at most.
    """

    supervision: Supervision
    length: int
    seed: int
    samples_per_range: int
    batch_size: Callable[[int], int]
    is_standing: Callable[[Positions], NDArray[np.bool_]] | None = None

    def ranges(self, segments: Sequence[Segment], *, rank: int, lane: int) -> Iterator[NDArray[np.int64]]:
        """What a lane of a rank reads next, range by range: positions [num_batches, batch_size].

        Every position is read once by some lane, whatever the segments: windows that were begun when the number of lanes
        changed are read to their end first, in ranges of the new lanes.

        Args:
            segments: the earlier ones, then the present one with what it took so far.
            rank: of the worker.
            lane: of the worker's ``lanes_per_rank`` ones.
        """
        segments = merged_segments(segments, supervision=self.supervision)
        unread = self._unread(segments[:-1])
        windows = self._windows(segments, unread)
        taken, present = windows.batches_taken(lane), segments[-1]
        for window in itertools.count(taken // windows.batches_per_range):
            batches = windows.batches(window, rank * present.lanes_per_rank + lane)
            yield batches[max(0, taken - window * windows.batches_per_range) :]

    def _unread(self, segments: Sequence[Segment]) -> _Unread:
        """What segments left; a window counts as begun once one of its batches was taken."""
        unread = _Unread(rest=np.empty(0, dtype=np.int64), start=0)
        for count in range(1, len(segments) + 1):
            windows = self._windows(segments[:count], unread)
            taken = [windows.batches_taken(lane) for lane in range(segments[count - 1].lanes_per_rank)]
            done, begun = min(taken) // windows.batches_per_range, -(-max(taken) // windows.batches_per_range)
            left = [windows.left(window, lane) for window in range(done, begun) for lane in range(windows.num_lanes)]
            later = unread.after(begun * windows.length)
            unread = _Unread(rest=np.concatenate([*left, later.rest]), start=later.start)
        return unread

    def _windows(self, segments: Sequence[Segment], unread: _Unread) -> "_Windows":
        segment = segments[-1]
        num_lanes = segment.world_size * segment.lanes_per_rank
        batch_size = self.batch_size(segment.world_size)
        batches = min(self.samples_per_range, self.length // num_lanes) // batch_size
        return _Windows(
            segment=segment,
            unread=unread,
            supervision=self.supervision,
            seed=f"{self.seed}-{self.supervision}-{len(segments)}",
            batch_size=batch_size,
            batches_per_range=max(1, batches),
            is_standing=self.is_standing,
        )


@dataclass(frozen=True, kw_only=True)
class _Windows:
    """The windows of one segment."""

    segment: Segment
    unread: _Unread
    supervision: Supervision
    seed: str
    batch_size: int
    batches_per_range: int
    is_standing: Callable[[Positions], NDArray[np.bool_]] | None

    @property
    def num_lanes(self) -> int:
        return self.segment.world_size * self.segment.lanes_per_rank

    @property
    def length(self) -> int:
        """Positions of a window."""
        return self.num_lanes * self.batches_per_range * self.batch_size

    def batches_taken(self, lane: int) -> int:
        """Batches that a rank took from one of its lanes."""
        return len(range(lane, self.segment.num_batches.get(self.supervision, 0), self.segment.lanes_per_rank))

    def range(self, window: int, lane: int) -> Positions:
        """Positions of a lane (of all ranks' lanes) in a window, ascending."""
        count = self.batches_per_range * self.batch_size
        return self.unread.positions(window * self.length + lane * count, count)

    def batches(self, window: int, lane: int) -> NDArray[np.int64]:
        """The range shuffled into batches [batches_per_range, batch_size]."""
        rng = random.Random(f"samples-{self.seed}-{lane}-{window}")
        positions = _shuffled(self.range(window, lane), rng)
        if self.is_standing is not None:
            standing = self.is_standing(positions)
            positions = np.concatenate([positions[~standing], positions[standing]])
        return _shuffled(positions.reshape(self.batches_per_range, self.batch_size), rng)

    def left(self, window: int, lane: int) -> Positions:
        """Positions of a range that were not read, ascending."""
        taken = self.batches_taken(lane % self.segment.lanes_per_rank) - window * self.batches_per_range
        if taken <= 0:
            return self.range(window, lane)
        if taken >= self.batches_per_range:
            return np.empty(0, dtype=np.int64)
        return np.sort(self.batches(window, lane)[taken:], axis=None)


def merged_segments(segments: Sequence[Segment], *, supervision: Supervision) -> list[Segment]:
    """Neighbours of the same lanes as one, for one type: a run that was only interrupted goes on as if it had not been."""
    merged: list[Segment] = []
    for segment in segments:
        count = segment.num_batches.get(supervision, 0)
        lanes = (segment.world_size, segment.lanes_per_rank)
        if merged and lanes == (merged[-1].world_size, merged[-1].lanes_per_rank):
            count += merged.pop().num_batches.get(supervision, 0)
        merged.append(
            Segment(
                world_size=segment.world_size,
                loader_workers=segment.loader_workers,
                num_batches={supervision: count},
            )
        )
    return merged


def _shuffled(rows: NDArray[np.int64], rng: random.Random) -> NDArray[np.int64]:
    return rows[rng.sample(range(len(rows)), len(rows))]
