"""L_align: focal loss between every anchor and every distinct concept of the global batch.

Shapes: B images, K anchors, M_B distinct concepts of the global batch, P positive anchors over the images, D width.
"""

import torch
from torch import Tensor

from detclipv2.ops.focal_linear import focal_linear


def alignment_loss(
    embeddings: Tensor,
    texts: Tensor,
    bias: Tensor,
    *,
    image_index: Tensor,
    anchor_index: Tensor,
    concept_index: Tensor,
    valid: Tensor,
    num_positives: Tensor,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Tensor:
    """Sigmoid focal loss of the logits S = f^P . f^T + b [B, K, M_B] against G, as in ATSS (arXiv:1912.02424).

    Neither S nor G is ever in memory as a whole: for 4 images and a grounding batch's 8,500 concepts each would take 3 GB.

    Args:
        embeddings: region embeddings f^P [B, K, D].
        texts: text embeddings f^T [M_B, D].
        bias: b, [].
        image_index: [P], with the next two the positions of the ones of G. A position given twice counts once, and one
            whose anchor is not valid does not count.
        anchor_index: [P].
        concept_index: [P].
        valid: [B, K] bool; anchors on padding do not count.
        num_positives: positive anchors, averaged over ranks; at least 1 is taken.
        alpha: weight of positives.
        gamma: focusing exponent.
    """
    num_anchors, num_texts = valid.shape[1], len(texts)
    counts = valid.flatten()  # [B K]
    row = image_index * num_anchors + anchor_index
    pairs = (row * num_texts + concept_index)[counts[row]]
    total = focal_linear(
        embeddings.flatten(0, 1),
        texts,
        bias,
        rows=counts.nonzero().squeeze(1),
        positives=torch.unique(pairs),
        alpha=alpha,
        gamma=gamma,
    )
    return total / num_positives.clamp(min=1.0)
