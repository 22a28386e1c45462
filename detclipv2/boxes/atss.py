"""Adaptive training sample selection (arXiv:1912.02424), and the centerness target that goes with it.

Shapes: K anchors over all levels, N boxes of one image, C candidates of a box over all levels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

# An anchor counts as inside a box when its centre is this far from every side, in pixels.
MIN_CENTER_MARGIN_PX = 0.01


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Which anchors are positive, and for which box."""

    anchors: Tensor  # [P] index of each positive anchor, ascending
    boxes: Tensor  # [P] index of the box that it is positive for


def center_margins(points: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """Distances (left, top, right, bottom) [..., 4] of points [..., 2] from the sides of boxes [..., 4], negative outside."""
    return torch.cat([points - boxes_xyxy[..., :2], boxes_xyxy[..., 2:] - points], dim=-1)


def _candidates(distances: Tensor, num_anchors: list[int], topk: int) -> Tensor:
    """Indices [C, N] of the ``topk`` anchors of each level whose centres are nearest to each box."""
    picked, start = [], 0
    for count in num_anchors:
        level = distances[start : start + count]
        picked.append(level.topk(min(topk, count), dim=0, largest=False).indices + start)
        start += count
    return torch.cat(picked)


def assign(
    boxes_xyxy: Tensor, anchors_xyxy: Tensor, *, num_anchors: list[int], valid: Tensor | None = None, topk: int = 9
) -> Assignment:
    """Assign anchors [K, 4] to the boxes [N, 4] of one image.

    A box takes as candidates the ``topk`` anchors of each level nearest to its centre; those whose IoU with it reaches the
    mean plus the standard deviation of the candidates' IoUs, and whose centre lies inside it, are positive. An anchor that
    several boxes claim goes to the one of highest IoU.

    Args:
        boxes_xyxy: ground truth, pixels.
        anchors_xyxy: anchors of all levels, pixels.
        num_anchors: how many of them each level has.
        valid: [K] bool, anchors that take part (those on padding do not).
        topk: candidates a level.
    """
    if boxes_xyxy.numel() == 0:
        empty = torch.zeros(0, dtype=torch.long, device=anchors_xyxy.device)
        return Assignment(anchors=empty, boxes=empty)
    kept = torch.arange(len(anchors_xyxy), device=anchors_xyxy.device)
    if valid is not None:
        kept = valid.nonzero().squeeze(1)
        num_anchors = [int(level.sum()) for level in valid.split(num_anchors)]
        anchors_xyxy = anchors_xyxy[kept]
    points = (anchors_xyxy[:, :2] + anchors_xyxy[:, 2:]) / 2  # [K, 2]
    centers = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2  # [N, 2]
    distances = torch.cdist(points, centers, compute_mode="donot_use_mm_for_euclid_dist")  # [K, N]
    candidates = _candidates(distances, num_anchors, topk)  # [C, N]
    ious = box_iou(anchors_xyxy, boxes_xyxy)  # [K, N]
    candidate_ious = ious.gather(0, candidates)
    threshold = candidate_ious.mean(0) + candidate_ious.std(0)  # [N]
    columns = torch.arange(len(boxes_xyxy), device=boxes_xyxy.device).expand_as(candidates)
    inside = center_margins(points[candidates], boxes_xyxy[columns]).amin(-1) > MIN_CENTER_MARGIN_PX
    positive = (candidate_ious >= threshold) & inside
    claims = torch.full_like(ious, -1.0)
    claims[candidates[positive], columns[positive]] = candidate_ious[positive]
    best_iou, best_box = claims.max(dim=1)
    anchors = (best_iou >= 0).nonzero().squeeze(1)
    return Assignment(anchors=kept[anchors], boxes=best_box[anchors])


def centerness_target(anchors_xyxy: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """Centerness [P] of anchors [P, 4] in the boxes [P, 4] that they are positive for.

    sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) of the distances from the anchor's centre to the box's sides.
    """
    points = (anchors_xyxy[:, :2] + anchors_xyxy[:, 2:]) / 2
    left, top, right, bottom = center_margins(points, boxes_xyxy).unbind(-1)
    horizontal = torch.minimum(left, right) / torch.maximum(left, right)
    vertical = torch.minimum(top, bottom) / torch.maximum(top, bottom)
    return (horizontal * vertical).sqrt()
