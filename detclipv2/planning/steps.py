"""How many steps of each supervision type a training has."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from detclipv2.config import Supervision, TrainConfig
from detclipv2.planning.texts import DataSize
from detclipv2.training.schedule import Schedule, global_batch_sizes


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Steps of one type."""

    images: int  # of a step, over all processes
    per_epoch: int  # a pass over its dataset
    total: int


def count_steps(
    train: TrainConfig, sizes: Mapping[Supervision, DataSize], *, world_size: int
) -> dict[Supervision, Steps]:
    """Steps by type, as the loop takes them.

    Args:
        train: the training.
        sizes: of the datasets of the types that take part.
        world_size: number of processes.

    Raises:
        ValueError: no type has samples.
    """
    images = global_batch_sizes(train, world_size=world_size)
    num_samples = {name: sizes[name].num_samples for name in images}
    total = Counter(Schedule(config=train, num_samples=num_samples, world_size=world_size).types)
    return {
        name: Steps(images=count, per_epoch=math.ceil(num_samples[name] / count), total=total[name])
        for name, count in images.items()
    }
