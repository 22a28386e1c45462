"""ATSS: adaptive training sample selection (arXiv:1912.02424), and its centerness target.

Shapes: K anchors over all levels, N boxes of one image, C candidates of a box over all levels,
Q claims of boxes to anchors, P positive anchors.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

# An anchor counts as inside a box when its centre is this far from every side, in pixels.
MIN_CENTER_MARGIN_PX = 0.01
# Boxes are taken so many at a time that their distances from all anchors are at most this many numbers (32 MB).
MAX_DISTANCES = 2**23


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Which anchors are positive, and for which box."""

    anchors: Tensor  # [P] index of each positive anchor, ascending
    boxes: Tensor  # [P] index of the box that it is positive for


def center_margins(points: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """Distances (left, top, right, bottom) [..., 4] of points [..., 2] from the sides of boxes [..., 4], negative outside."""
    return torch.cat([points - boxes_xyxy[..., :2], boxes_xyxy[..., 2:] - points], dim=-1)


@dataclass(frozen=True)
class _Claims:
    """Anchors that are positive for a box, whoever else claims them."""

    anchors: Tensor  # [Q]
    boxes: Tensor  # [Q]
    ious: Tensor  # [Q]


def _candidates(points: Tensor, boxes_xyxy: Tensor, num_anchors: list[int], topk: int) -> Tensor:
    """Indices [N, C] of the ``topk`` anchors of each level whose centres [K, 2] are nearest to each box's centre."""
    centers = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
    distances = torch.cdist(centers, points, compute_mode="donot_use_mm_for_euclid_dist")  # [N, K]
    picked, start = [], 0
    for level in distances.split(num_anchors, dim=1):
        picked.append(level.topk(min(topk, level.shape[1]), largest=False).indices + start)
        start += level.shape[1]
    return torch.cat(picked, dim=1)


def _claims(boxes_xyxy: Tensor, anchors_xyxy: Tensor, num_anchors: list[int], topk: int) -> _Claims:
    points = (anchors_xyxy[:, :2] + anchors_xyxy[:, 2:]) / 2  # [K, 2]
    candidates = _candidates(points, boxes_xyxy, num_anchors, topk)  # [N, C]
    ious = box_iou(boxes_xyxy[:, None], anchors_xyxy[candidates]).squeeze(1)  # [N, C]
    threshold = ious.mean(1) + ious.std(1)  # [N]
    inside = center_margins(points[candidates], boxes_xyxy[:, None]).amin(-1) > MIN_CENTER_MARGIN_PX
    boxes, columns = ((ious >= threshold[:, None]) & inside).nonzero(as_tuple=True)
    return _Claims(candidates[boxes, columns], boxes, ious[boxes, columns])


def assign(
    boxes_xyxy: Tensor, anchors_xyxy: Tensor, *, num_anchors: list[int], valid: Tensor | None = None, topk: int = 9
) -> Assignment:
    """Assign anchors [K, 4] to the boxes [N, 4] of one image.

    A box takes as candidates the ``topk`` anchors of each level nearest to its centre; those whose IoU with it reaches the
    mean plus the standard deviation of the candidates' IoUs, and whose centre lies inside it, are positive. An anchor that
    several boxes claim goes to the one of highest IoU, among equals to the first. A box without area has no positive anchor.

    The result is that of mmdetection's ATSSAssigner, which of equally distant anchors takes any as well. Memory does not grow
    with the product of boxes and anchors.

    Args:
        boxes_xyxy: ground truth, pixels.
        anchors_xyxy: anchors of all levels, pixels.
        num_anchors: how many of them each level has.
        valid: [K] bool, anchors that take part (those on padding do not).
        topk: candidates a level.
    """
    kept = torch.arange(len(anchors_xyxy), device=anchors_xyxy.device)
    if valid is not None:
        kept = valid.nonzero().squeeze(1)
        num_anchors = [int(level.sum()) for level in valid.split(num_anchors)]
        anchors_xyxy = anchors_xyxy[kept]
    if len(boxes_xyxy) == 0 or len(kept) == 0:
        return Assignment(anchors=kept[:0], boxes=kept[:0])
    chunk = max(1, MAX_DISTANCES // len(kept))
    claims = [_claims(boxes, anchors_xyxy, num_anchors, topk) for boxes in boxes_xyxy.split(chunk)]
    anchors, ious = torch.cat([claim.anchors for claim in claims]), torch.cat([claim.ious for claim in claims])
    boxes = torch.cat([claim.boxes + index * chunk for index, claim in enumerate(claims)])
    best_iou = ious.new_zeros(len(kept)).scatter_reduce_(0, anchors, ious, "amax")
    winning = ious == best_iou[anchors]
    best_box = torch.full_like(kept, len(boxes_xyxy)).scatter_reduce_(0, anchors[winning], boxes[winning], "amin")
    positive = (best_box < len(boxes_xyxy)).nonzero().squeeze(1)
    return Assignment(anchors=kept[positive], boxes=best_box[positive])


def centerness_target(anchors_xyxy: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """Centerness [P] of anchors [P, 4] in the boxes [P, 4] that they are positive for.

    sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) of the distances from the anchor's centre to the box's sides.
    """
    points = (anchors_xyxy[:, :2] + anchors_xyxy[:, 2:]) / 2
    left, top, right, bottom = center_margins(points, boxes_xyxy).unbind(-1)
    horizontal = torch.minimum(left, right) / torch.maximum(left, right)
    vertical = torch.minimum(top, bottom) / torch.maximum(top, bottom)
    return (horizontal * vertical).sqrt()
