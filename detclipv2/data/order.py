"""Which samples a worker reads, and in which order."""

from collections.abc import Mapping
from dataclasses import dataclass

from detclipv2.config import Supervision


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of a training in which as many workers as before took batches: from it follows what they have read."""

    world_size: int
    loader_workers: int
    num_batches: Mapping[Supervision, int]  # that each worker took, by type
