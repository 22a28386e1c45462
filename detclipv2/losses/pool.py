"""Concept pool: the distinct texts of a global batch, each of which is encoded once (section 3.1 of arXiv:2304.04514).

Shapes: M_B distinct concepts of the global batch, D width.
"""

import math
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from detclipv2.distributed import gather_objects, gather_with_grad, rank, world_size
from detclipv2.structures import Batch


@dataclass(frozen=True, kw_only=True)
class ConceptPool:
    """Which concepts the global batch has, and whose they are."""

    num_texts: int  # M_B
    mine: list[str]  # the share of this process, equally long in all: the last text is repeated
    own: list[list[int]]  # concepts of each local image, as rows of the M_B
    everyone: list[list[int]]  # the same of all images of the global batch, rank after rank

    @cached_property
    def local(self) -> set[int]:
        """Rows of the concepts of this process's images."""
        return {row for image in self.own for row in image}

    def gathered(self, embeddings: Tensor) -> Tensor:
        """Embeddings [M_B, D] of all concepts, from those [len(mine), D] that each process encoded."""
        return gather_with_grad(embeddings)[: self.num_texts]


def concept_pool(batch: Batch) -> ConceptPool:
    """What the batches of all processes ask for; each process calls it.

    Raises:
        ValueError: an image-text pair has no concept, or the whole batch has none.
    """
    wordless = [key for key, concepts in zip(batch.keys, batch.concepts, strict=True) if not concepts]
    if wordless and batch.supervision == "image_text":
        raise ValueError(f"image-text pairs {wordless} have no concept: a pair needs a phrase, or its caption as one")
    everyone = gather_objects(batch.concepts)
    texts = sorted({text for images in everyone for image in images for text in image})
    if not texts:
        raise ValueError("a batch without any concept: every sample needs a category, a phrase or a caption")
    share = math.ceil(len(texts) / world_size())
    padded = texts + [texts[-1]] * (share * world_size() - len(texts))
    index = {text: row for row, text in enumerate(texts)}
    return ConceptPool(
        num_texts=len(texts),
        mine=padded[rank() * share : (rank() + 1) * share],
        own=[[index[text] for text in image] for image in batch.concepts],
        everyone=[[index[text] for text in image] for images in everyone for image in images],
    )
