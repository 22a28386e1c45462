"""Box losses: L_reg and L_center of Eq. 6 of arXiv:2304.04514, and those of class-agnostic scores.

Shapes: B images, K anchors, P positive anchors over the images.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_area, generalized_box_iou_loss, sigmoid_focal_loss


def box_loss(boxes_xyxy: Tensor, targets_xyxy: Tensor, *, centerness: Tensor, centerness_sum: Tensor) -> Tensor:
    """GIoU loss of decoded boxes [P, 4], weighted by their centerness targets [P] (ATSS).

    Args:
        boxes_xyxy: decoded predictions, pixels.
        targets_xyxy: the boxes that the anchors are positive for.
        centerness: targets.
        centerness_sum: sum of all centerness targets, averaged over ranks; at least 1 is taken.
    """
    giou = generalized_box_iou_loss(boxes_xyxy.float(), targets_xyxy, reduction="none")
    return (giou * centerness).sum() / centerness_sum.clamp(min=1.0)


def centerness_loss(logits: Tensor, targets: Tensor, *, num_positives: Tensor) -> Tensor:
    """Binary cross-entropy of centerness logits [P] against targets [P] in 0..1; of IoU logits against IoUs too."""
    loss = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="sum")
    return loss / num_positives.clamp(min=1.0)


def foreground_loss(
    logits: Tensor, positives: Tensor, *, valid: Tensor, num_positives: Tensor, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Focal loss of class-agnostic foreground logits [B, K] (row 1 of Table 2a); 1 where ``positives`` [B, K] is."""
    loss = sigmoid_focal_loss(logits.float(), positives.float(), alpha=alpha, gamma=gamma)
    return (loss * valid).sum() / num_positives.clamp(min=1.0)


def paired_iou(boxes_xyxy: Tensor, others_xyxy: Tensor) -> Tensor:
    """IoU [P] of each box [P, 4] with the one of the same row; 0 where both are empty."""
    top_left = torch.maximum(boxes_xyxy[:, :2], others_xyxy[:, :2])
    bottom_right = torch.minimum(boxes_xyxy[:, 2:], others_xyxy[:, 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(dim=1)
    union = box_area(boxes_xyxy) + box_area(others_xyxy) - intersection
    return intersection / union.clamp(min=torch.finfo(union.dtype).tiny)
