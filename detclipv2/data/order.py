"""Sample order: which samples a loader worker reads, and in which order.

The endless row of positions of ``epochs.py`` is cut into shuffle buffers, a buffer into one block for each loader worker, and a
block is shuffled into batches. A worker is one process of a rank, or its one thread. Blocks are contiguous, so that a worker
reads each of its bytes once and nearly in sequence. All batches are full and no rank waits for another, whatever the number of
samples.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from detclipv2.config import Supervision
from detclipv2.data.epochs import Positions


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of a training with a constant number of ranks and loader workers; what they have read follows from it."""

    world_size: int
    loader_workers: int
    num_batches: Mapping[Supervision, int]  # that each rank took, by type

    @property
    def workers_per_rank(self) -> int:
        """Processes, or the one thread, that read for a rank: its batch n comes from worker n mod this."""
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
        samples_per_block: about as many samples are read in one go by a worker, and shuffled; fewer where an epoch has no
            buffer of such blocks.
        batch_size: samples of a batch of one rank, by the number of ranks.
        is_portrait: whether the images at some positions are higher than wide. Given, batches are of landscape or of portrait
            images alone, except for one of each block at most.
    """

    supervision: Supervision
    length: int
    seed: int
    samples_per_block: int
    batch_size: Callable[[int], int]
    is_portrait: Callable[[Positions], NDArray[np.bool_]] | None = None

    def blocks(self, segments: Sequence[Segment], *, rank: int, worker: int) -> Iterator[NDArray[np.int64]]:
        """What a worker of a rank reads next, block by block: positions [num_batches, batch_size].

        Every position is read once by some worker, whatever the segments: buffers that were begun when the number of workers
        changed are read to their end first, in blocks of the new workers.

        Args:
            segments: the earlier ones, then the present one with what it took so far.
            rank: of the training process.
            worker: which of the rank's ``workers_per_rank``.
        """
        segments = merged_segments(segments, supervision=self.supervision)
        unread = self._unread(segments[:-1])
        buffers = self._buffers(segments, unread)
        taken, present = buffers.batches_taken(worker), segments[-1]
        for buffer in itertools.count(taken // buffers.batches_per_block):
            batches = buffers.batches(buffer, rank * present.workers_per_rank + worker)
            yield batches[max(0, taken - buffer * buffers.batches_per_block) :]

    def _unread(self, segments: Sequence[Segment]) -> _Unread:
        """What segments left; a buffer counts as begun once one of its batches was taken."""
        unread = _Unread(rest=np.empty(0, dtype=np.int64), start=0)
        for count in range(1, len(segments) + 1):
            buffers = self._buffers(segments[:count], unread)
            taken = [buffers.batches_taken(worker) for worker in range(segments[count - 1].workers_per_rank)]
            done, begun = min(taken) // buffers.batches_per_block, -(-max(taken) // buffers.batches_per_block)
            left = [
                buffers.left(buffer, worker) for buffer in range(done, begun) for worker in range(buffers.num_workers)
            ]
            later = unread.after(begun * buffers.length)
            unread = _Unread(rest=np.concatenate([*left, later.rest]), start=later.start)
        return unread

    def _buffers(self, segments: Sequence[Segment], unread: _Unread) -> "_Buffers":
        seed = f"{self.seed}-{self.supervision}-{len(segments)}"
        return _Buffers(order=self, segment=segments[-1], unread=unread, seed=seed)


@dataclass(frozen=True, kw_only=True)
class _Buffers:
    """The shuffle buffers of one segment."""

    order: Order
    segment: Segment
    unread: _Unread
    seed: str

    @cached_property
    def batch_size(self) -> int:
        return self.order.batch_size(self.segment.world_size)

    @cached_property
    def batches_per_block(self) -> int:
        samples = min(self.order.samples_per_block, self.order.length // self.num_workers)
        return max(1, samples // self.batch_size)

    @property
    def num_workers(self) -> int:
        return self.segment.world_size * self.segment.workers_per_rank

    @property
    def length(self) -> int:
        """Positions of a buffer."""
        return self.num_workers * self.batches_per_block * self.batch_size

    def batches_taken(self, worker: int) -> int:
        """Batches that a rank took from one of its workers."""
        return len(
            range(worker, self.segment.num_batches.get(self.order.supervision, 0), self.segment.workers_per_rank)
        )

    def block(self, buffer: int, worker: int) -> Positions:
        """Positions of a worker (of all ranks' workers) in a buffer, ascending."""
        count = self.batches_per_block * self.batch_size
        return self.unread.positions(buffer * self.length + worker * count, count)

    def batches(self, buffer: int, worker: int) -> NDArray[np.int64]:
        """The block shuffled into batches [batches_per_block, batch_size]."""
        rng = random.Random(f"samples-{self.seed}-{worker}-{buffer}")
        positions = _shuffled(self.block(buffer, worker), rng)
        if self.order.is_portrait is not None:
            portrait = self.order.is_portrait(positions)
            positions = np.concatenate([positions[~portrait], positions[portrait]])
        return _shuffled(positions.reshape(self.batches_per_block, self.batch_size), rng)

    def left(self, buffer: int, worker: int) -> Positions:
        """Positions of a block that were not read, ascending."""
        taken = self.batches_taken(worker % self.segment.workers_per_rank) - buffer * self.batches_per_block
        if taken <= 0:
            return self.block(buffer, worker)
        if taken >= self.batches_per_block:
            return np.empty(0, dtype=np.int64)
        return np.sort(self.batches(buffer, worker)[taken:], axis=None)


def merged_segments(segments: Sequence[Segment], *, supervision: Supervision) -> list[Segment]:
    """Neighbours of the same workers as one, for one type: a run that was only interrupted goes on as if it had not been."""
    merged: list[Segment] = []
    for segment in segments:
        count = segment.num_batches.get(supervision, 0)
        workers = (segment.world_size, segment.workers_per_rank)
        if merged and workers == (merged[-1].world_size, merged[-1].workers_per_rank):
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
