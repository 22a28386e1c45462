"""The concept list of a picture: its own texts and sampled negatives (section 3.1 of arXiv:2304.04514)."""

import random
from collections.abc import Sequence
from typing import Literal

from detclipv2.data.decode import Sample


def _head_noun(phrase: str) -> str:
    return phrase.split()[-1] if phrase.split() else ""


def concept_list(
    sample: Sample,
    *,
    vocabulary: Sequence[str],
    num_concepts: int,
    caption_as_concept: Literal["on", "off"] = "on",
    rng: random.Random,
) -> list[str]:
    """Positives of a sample first, in order, then negatives up to ``num_concepts``.

    Negatives of detection are other categories of the same dataset. Those of grounding are other phrases whose last word no
    positive has: "large dog" is no safe negative for a picture of a "black dog". Image-text pairs take none; their caption
    may count as one more concept (method U3).

    Args:
        sample: the picture's texts.
        vocabulary: where negatives come from.
        num_concepts: M, positives and negatives together.
        caption_as_concept: for image-text pairs.
        rng: draws the negatives.
    """
    positives = list(sample.concepts)
    if sample.supervision == "image_text":
        if caption_as_concept == "on" and sample.caption and sample.caption not in positives:
            positives.append(sample.caption)
        return positives
    taken = set(positives)
    heads = {_head_noun(text) for text in positives} if sample.supervision == "grounding" else set()
    negatives = [text for text in vocabulary if text not in taken and _head_noun(text) not in heads]
    wanted = max(0, num_concepts - len(positives))
    return positives + rng.sample(negatives, min(wanted, len(negatives)))
