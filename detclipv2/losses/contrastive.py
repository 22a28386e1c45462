"""L_cts: word-region contrastive loss from text to image (Eqs. 2, 3 and 5 of arXiv:2304.04514).

Shapes: U distinct texts of the global batch, B local and B_g global images (or captions), k proposals, D width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from detclipv2.distributed import gather_with_grad, rank


def best_region_similarity(texts: Tensor, regions: Tensor, mask: Tensor) -> Tensor:
    """Similarity [U, B] of each text to the most similar region of each image (Eq. 2, and the sum's term in Eq. 3).

    Args:
        texts: [U, D].
        regions: [B, k, D].
        mask: [B, k] bool, False on padding. An image without any region has similarity 0 to every text.
    """
    similarity = torch.einsum("ud,bkd->ubk", texts.float(), regions.float())
    best = similarity.masked_fill(~mask, -torch.inf).amax(-1)
    return best.masked_fill(~mask.any(-1), 0.0)


def caption_weights(captions: list[list[int]], num_texts: int, *, device: torch.device) -> Tensor:
    """Matrix [B, U] whose product with ``best_region_similarity`` is the mean over each caption's concepts (Eq. 3)."""
    weights = torch.zeros(len(captions), num_texts, device=device)
    for row, texts in enumerate(captions):
        weights[row, texts] = 1.0 / len(texts)
    return weights


def contrastive_loss(similarity: Tensor, *, temperature: float = 0.5, label_smoothing: float = 0.1) -> Tensor:
    """Eq. 5 for this process's rows, from similarities of all captions to its images.

    Args:
        similarity: s^T [B_g, B], captions of all ranks in rank order against the local images; B is equal on all ranks.
        temperature: tau.
        label_smoothing: share of the target spread evenly over all images.

    Returns:
        Mean over the local captions; the mean of this over ranks is the loss of the global batch.
    """
    num_local = similarity.shape[1]
    logits = gather_with_grad(similarity.T).T / temperature  # [B_g, B_g]
    rows = torch.arange(num_local, device=logits.device) + rank() * num_local
    return F.cross_entropy(logits[rows], rows, label_smoothing=label_smoothing)
