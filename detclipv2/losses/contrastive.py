"""L_cts: the word-region contrastive loss (Eqs. 2 to 5 and Table 2 of arXiv:2304.04514).

Shapes: U distinct texts of the global batch, C captions of the global batch, B local images, k proposals, D width.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from detclipv2.distributed import gather_with_grad, rank
from detclipv2.ops.word_region import best_region_similarity, best_word_similarity, soft_region_similarity


def word_region_loss(
    texts: Tensor,
    regions: Tensor,
    mask: Tensor,
    captions: Sequence[Sequence[int]],
    *,
    matching: Literal["hard", "soft"] = "hard",
    direction: Literal["text_to_image", "image_to_text", "both"] = "text_to_image",
    soft_temperature: float = 0.1,
    temperature: float = 0.5,
    label_smoothing: float = 0.1,
) -> Tensor:
    """L_cts of this process: Eq. 5, or another row of Table 2c; "both" is the mean of the two directions.

    Args:
        texts: [U, D].
        regions: [B, k, D].
        mask: [B, k] bool, False on padding.
        captions: index into the texts of each caption's concepts; captions of all ranks in rank order, B of each.
        matching: of texts to regions, see ``word_region_similarity``; it does not concern "image_to_text".
        direction: which of the two is looked for.
        soft_temperature: tau_t of Eq. 4.
        temperature: tau of Eq. 5.
        label_smoothing: share of the target spread evenly.

    Raises:
        ValueError: a caption has no concept.
    """
    wordless = [number for number, caption in enumerate(captions) if not caption]
    if wordless:
        raise ValueError(f"captions {wordless} have no concept: each needs a phrase, or its whole text as one")
    similarities: dict[Literal["text_to_image", "image_to_text"], Tensor] = {}
    if direction != "image_to_text":
        similarities["text_to_image"] = word_region_similarity(
            texts, regions, mask, captions, matching=matching, soft_temperature=soft_temperature
        )
    if direction != "text_to_image":
        similarities["image_to_text"] = best_word_similarity(texts, regions, mask, captions)
    losses = [
        contrastive_loss(similarity, direction=one, temperature=temperature, label_smoothing=label_smoothing)
        for one, similarity in similarities.items()
    ]
    return torch.stack(losses).mean()


def word_region_similarity(
    texts: Tensor,
    regions: Tensor,
    mask: Tensor,
    captions: Sequence[Sequence[int]],
    *,
    matching: Literal["hard", "soft"] = "hard",
    soft_temperature: float = 0.1,
) -> Tensor:
    """Similarity s^T [C, B] of captions to images: the mean over a caption's concepts (Eqs. 3 and 4).

    Args:
        texts: [U, D].
        regions: [B, k, D].
        mask: [B, k] bool, False on padding. An image without any region has similarity 0 to every caption.
        captions: index into the texts of each caption's concepts.
        matching: "hard", a concept's similarity to its best region (Eq. 3), or "soft", to the softmax-weighted mean of
            the regions (Eq. 4).
        soft_temperature: tau_t of Eq. 4.
    """
    if matching == "soft":
        similarity = soft_region_similarity(texts, regions, mask, temperature=soft_temperature)
    else:
        similarity = best_region_similarity(texts, regions, mask)
    members = torch.tensor([text for caption in captions for text in caption], device=similarity.device)
    first = torch.tensor([0, *accumulate(map(len, captions))][:-1], device=similarity.device)
    return F.embedding_bag(members, similarity, first, mode="mean")


def contrastive_loss(
    similarity: Tensor,
    *,
    direction: Literal["text_to_image", "image_to_text"] = "text_to_image",
    temperature: float = 0.5,
    label_smoothing: float = 0.1,
) -> Tensor:
    """Eq. 5 for this process's part of the global batch, from similarities of all captions to its images.

    Args:
        similarity: [C, B], captions of all ranks in rank order against the local images; B is equal on all ranks.
        direction: "text_to_image" finds the image of each local caption among all images, "image_to_text" the caption
            of each local image among all captions.
        temperature: tau.
        label_smoothing: share of the target spread evenly over all that could be found.

    Returns:
        Mean over the local captions or images; the mean of this over ranks is the loss of the global batch.
    """
    num_local = similarity.shape[1]
    local = torch.arange(num_local, device=similarity.device) + rank() * num_local
    # [B, C] either way: there are as many images as captions.
    logits = gather_with_grad(similarity.T).T[local] if direction == "text_to_image" else similarity.T
    return F.cross_entropy(logits / temperature, local, label_smoothing=label_smoothing)
