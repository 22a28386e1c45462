"""Box coder: boxes as offsets from anchors, DeltaXYWH with means 0 and standard deviations (0.1, 0.1, 0.2, 0.2)."""

import math

import torch
from torch import Tensor

STDS = (0.1, 0.1, 0.2, 0.2)
# Keeps exp() finite for wild regressions early in training.
MAX_LOG_RATIO = math.log(1000 / 16)


def decode(deltas: Tensor, anchors_xyxy: Tensor) -> Tensor:
    """Boxes [..., 4] (xyxy, pixels) from deltas [..., 4] and anchors [..., 4] that broadcast against them."""
    dx, dy, dw, dh = (deltas.float() * deltas.new_tensor(STDS, dtype=torch.float32)).unbind(-1)
    x1, y1, x2, y2 = anchors_xyxy.unbind(-1)
    width, height = x2 - x1, y2 - y1
    center_x = (x1 + x2) / 2 + dx * width
    center_y = (y1 + y2) / 2 + dy * height
    half_w = 0.5 * width * dw.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    half_h = 0.5 * height * dh.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    return torch.stack([center_x - half_w, center_y - half_h, center_x + half_w, center_y + half_h], dim=-1)


def encode(boxes_xyxy: Tensor, anchors_xyxy: Tensor) -> Tensor:
    """The deltas [..., 4] that ``decode`` turns into ``boxes_xyxy`` [..., 4]; both of positive width and height."""
    ax1, ay1, ax2, ay2 = anchors_xyxy.unbind(-1)
    bx1, by1, bx2, by2 = boxes_xyxy.unbind(-1)
    dx = (bx1 + bx2 - ax1 - ax2) / 2 / (ax2 - ax1)
    dy = (by1 + by2 - ay1 - ay2) / 2 / (ay2 - ay1)
    dw = ((bx2 - bx1) / (ax2 - ax1)).log()
    dh = ((by2 - by1) / (ay2 - ay1)).log()
    return torch.stack([dx, dy, dw, dh], dim=-1) / boxes_xyxy.new_tensor(STDS)
