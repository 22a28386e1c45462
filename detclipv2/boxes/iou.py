"""Intersection over union of boxes that belong together."""

import torch
from torch import Tensor
from torchvision.ops import box_area


def paired_iou(boxes_xyxy: Tensor, others_xyxy: Tensor) -> Tensor:
    """IoU [P] of each box [P, 4] with the one of the same row; 0 where both are empty."""
    top_left = torch.maximum(boxes_xyxy[:, :2], others_xyxy[:, :2])
    bottom_right = torch.minimum(boxes_xyxy[:, 2:], others_xyxy[:, 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(dim=1)
    union = box_area(boxes_xyxy) + box_area(others_xyxy) - intersection
    return intersection / union.clamp(min=torch.finfo(union.dtype).tiny)
