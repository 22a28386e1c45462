"""Negative sampling: the concept list of an image, its own texts first (section 3.1 of arXiv:2304.04514)."""

import random
from collections.abc import Iterable, Iterator, Set

from detclipv2.data.decode import Sample
from detclipv2.text.dictionary import normalise, singulars, without_qualifier


class NegativePool:
    """Texts that negatives are drawn from, with what a draw needs of each worked out once.

    Texts that differ in case, underscores or blanks alone are one, as they are to a text encoder.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        by_name: dict[str, str] = {}
        for text in texts:
            by_name.setdefault(normalise(text), text)
        self._texts = [(text, name, _heads(name)) for name, text in by_name.items()]

    def __len__(self) -> int:
        return len(self._texts)

    def draw(self, count: int, *, positives: Iterable[str], avoid_shared_heads: bool, rng: random.Random) -> list[str]:
        """Distinct texts that are no positives, all such samples being equally likely; fewer only if there are no more.

        Costs time for the texts drawn and rejected, not for the whole pool. ``avoid_shared_heads`` leaves out what has the
        head noun of a positive, in singular or plural. The same state of ``rng`` gives the same texts.
        """
        names = {normalise(text) for text in positives}
        heads = {head for name in names for head in _heads(name)} if avoid_shared_heads else set[str]()
        drawn: list[str] = []
        order = _random_order(len(self._texts), rng)
        while len(drawn) < count and (index := next(order, None)) is not None:
            text, name, own_heads = self._texts[index]
            if name not in names and own_heads.isdisjoint(heads):
                drawn.append(text)
        return drawn


def concept_list(
    sample: Sample,
    *,
    negatives: NegativePool,
    dictionary: NegativePool | None = None,
    dictionary_share: float = 1.0,
    num_concepts: int,
    caption_as_concept: bool = True,
    rng: random.Random,
) -> list[str]:
    """Positives of a sample first, in order, then negatives up to ``num_concepts``, which is M.

    Negatives of detection are other categories of the same dataset. Those of grounding are concepts of the dictionary, or
    other phrases of the dataset, whose head noun no positive has: "large dog" is no safe negative for an image of a "black
    dog". Image-text pairs take none; their caption may count as one more concept, the last (method U3). An image with more
    positives than M keeps them all and takes no negative: each is the label of a box. One without any takes a negative in any
    case: a batch of such images alone would have no text to compare its regions with.

    ``negatives`` are categories or phrases of the same dataset, ``dictionary`` concepts that are not among them. Of the
    negatives of grounding ``dictionary_share`` come from the dictionary; where one side has too few, the other fills up.
    """
    positives = list(sample.concepts)
    if sample.supervision == "image_text":
        if caption_as_concept and sample.caption:
            positives = [text for text in positives if text != sample.caption] + [sample.caption]
        return positives
    wanted = max(0 if positives else 1, num_concepts - len(positives))
    if sample.supervision == "detection":
        return positives + negatives.draw(wanted, positives=positives, avoid_shared_heads=False, rng=rng)
    pools = (negatives, dictionary or NegativePool())
    own, others = (pool.draw(wanted, positives=positives, avoid_shared_heads=True, rng=rng) for pool in pools)
    num_others = max(round(wanted * dictionary_share), wanted - len(own))
    others = others[:num_others]
    return positives + own[: wanted - len(others)] + others


def _heads(name: str) -> Set[str]:
    """The last word of a normalised text, without a parenthesis, and what it may be the plural of."""
    words = without_qualifier(name).split()
    return frozenset([words[-1], *singulars(words[-1])]) if words else frozenset()


def _random_order(count: int, rng: random.Random) -> Iterator[int]:
    """The numbers below ``count`` shuffled, by Fisher and Yates, as far as they are asked for."""
    moved: dict[int, int] = {}
    for place in range(count):
        chosen = rng.randrange(place, count)
        yield moved.get(chosen, chosen)
        moved[chosen] = moved.pop(place, place)
