"""Epochs: the samples of some shards, epoch after epoch, as one endless row of positions."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where samples lie: ``rows[i]`` of shard ``shards[i]``."""

    shards: NDArray[np.int64]
    rows: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class _EpochOrder:
    shards: NDArray[np.int64]  # in their order
    starts: NDArray[np.int64]  # offset of the first sample of each in the epoch


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """Position p is sample p mod N of epoch p div N: shards shuffled anew in every epoch, each from its beginning to its end.

    The memory and the time of a look-up grow with the number of shards, not with that of samples or of epochs before.

    Args:
        num_samples: of each shard; at least one in all.
        seed: shuffles, with the epoch.
    """

    num_samples: Sequence[int]
    seed: str

    @cached_property
    def length(self) -> int:
        """N, the samples of an epoch."""
        return sum(self.num_samples)

    def places(self, positions: Positions) -> Places:
        """Where the samples at these positions lie."""
        shards, rows = np.empty_like(positions), np.empty_like(positions)
        epochs = positions // self.length
        for epoch in np.unique(epochs):
            order = self._order(int(epoch))
            here = epochs == epoch
            offsets = positions[here] - epoch * self.length
            # The last of the shards that begin at or before it: empty ones begin where the next one does.
            slots = np.searchsorted(order.starts, offsets, side="right") - 1
            shards[here], rows[here] = order.shards[slots], offsets - order.starts[slots]
        return Places(shards=shards, rows=rows)

    @cached_property
    def _order(self) -> Callable[[int], _EpochOrder]:
        """The last few epochs are remembered: blocks of neighbouring workers ask for the same one."""

        def order(epoch: int) -> _EpochOrder:
            shards = list(range(len(self.num_samples)))
            random.Random(f"shards-{self.seed}-{epoch}").shuffle(shards)
            counts = np.array([self.num_samples[shard] for shard in shards], dtype=np.int64)
            return _EpochOrder(shards=np.array(shards, dtype=np.int64), starts=np.cumsum(counts) - counts)

        return lru_cache(maxsize=8)(order)
