"""How many steps of each supervision type a training has."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from detclipv2.config import Supervision, TrainConfig
from detclipv2.data.alternation import alternation
from detclipv2.planning.texts import DataSize


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Steps of one type."""

    images: int  # of a step, over all processes
    per_epoch: int  # a pass over its dataset
    total: int


def count_steps(
    train: TrainConfig, sizes: Mapping[Supervision, DataSize], *, world_size: int
) -> dict[Supervision, Steps]:
    """Steps by type.

    Args:
        train: the training.
        sizes: of the datasets of the types that take part.
        world_size: number of processes.

    Raises:
        ValueError: no type has samples.
    """
    images = {name: config.samples_per_worker(world_size) * world_size for name, config in train.supervisions().items()}
    epoch = {name: math.ceil(sizes[name].num_samples / count) for name, count in images.items()}
    if train.epochs is not None:
        total = {name: round(train.epochs * count) for name, count in epoch.items()}
    else:
        assert train.num_steps is not None
        types = alternation(
            {name: sizes[name].num_samples for name in images},
            images,
            num_steps=train.num_steps,
            seed=train.seed,
            image_text_after=train.image_text_after,
        )
        total = dict(Counter(types))
    return {name: Steps(images=images[name], per_epoch=epoch[name], total=total.get(name, 0)) for name in images}
