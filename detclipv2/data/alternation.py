"""Alternation of supervision types over the steps: the same on every rank, for any number of ranks."""

import math
import random
from collections.abc import Mapping

from detclipv2.config import Supervision


def alternation(
    num_samples: Mapping[Supervision, int],
    global_batch_sizes: Mapping[Supervision, int],
    *,
    num_steps: int,
    seed: int,
    image_text_after: int = 0,
    segment: int = 0,
) -> list[Supervision]:
    """The supervision type of each step.

    An epoch is one pass over every dataset: a shuffled list with ceil(samples / batch) tokens of each type, so that a type is
    as probable as its share of the batches (method U11). Epochs follow each other until ``num_steps``.

    Args:
        num_samples: samples of each type; types without any are left out.
        global_batch_sizes: samples of a step of that type over all ranks.
        num_steps: length of the schedule.
        seed: shuffles.
        image_text_after: steps at the beginning without image-text pairs, while regions say nothing yet. An epoch that falls
            into them has the other types alone. Differs from the paper, whose schedule is long enough not to need it.
        segment: number of the part of the training that these steps make (``data/order.py``): each is shuffled anew.

    Raises:
        ValueError: no type has samples.
    """
    tokens: list[Supervision] = [
        name for name, count in sorted(num_samples.items()) for _ in range(math.ceil(count / global_batch_sizes[name]))
    ]
    if not tokens or (image_text_after and set(tokens) == {"image_text"}):
        raise ValueError(
            "no supervision type has any sample"
            + (
                ": image_text_after must be 0 without boxed data"
                if tokens
                else "; build a dataset with ray_jobs/build_dataset.py"
            )
        )
    schedule: list[Supervision] = []
    epoch, name_of_segment = 0, f"-{segment}" if segment else ""
    while len(schedule) < num_steps:
        without_pairs = len(schedule) < image_text_after
        shuffled = [name for name in tokens if not (without_pairs and name == "image_text")]
        random.Random(f"alternation-{seed}-{epoch}{name_of_segment}").shuffle(shuffled)
        end = min(image_text_after, num_steps) if without_pairs else num_steps
        schedule += shuffled[: end - len(schedule)]
        epoch += 1
    return schedule
