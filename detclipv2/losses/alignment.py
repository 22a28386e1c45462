"""L_align: focal loss between every anchor and every distinct concept of the global batch.

Shapes: B images, K anchors, M_B distinct concepts of the global batch, P positive anchors over the images.
"""

import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss


def alignment_targets(
    *,
    num_images: int,
    num_anchors: int,
    num_concepts: int,
    image_index: Tensor,
    anchor_index: Tensor,
    concept_index: Tensor,
) -> Tensor:
    """The target matrix G [B, K, M_B] of 0 and 1 from the positions [P] of its ones."""
    targets = torch.zeros(num_images, num_anchors, num_concepts, device=image_index.device)
    targets[image_index, anchor_index, concept_index] = 1.0
    return targets


def alignment_loss(
    logits: Tensor, targets: Tensor, *, valid: Tensor, num_positives: Tensor, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Sigmoid focal loss of logits [B, K, M_B] against targets of that shape, as in ATSS (arXiv:1912.02424).

    Args:
        logits: region-text logits S.
        targets: G.
        valid: [B, K] bool; anchors on padding do not count.
        num_positives: positive anchors, averaged over ranks; at least 1 is taken.
        alpha: weight of positives.
        gamma: focusing exponent.
    """
    loss = sigmoid_focal_loss(logits.float(), targets, alpha=alpha, gamma=gamma)
    return (loss * valid[..., None]).sum() / num_positives.clamp(min=1.0)
