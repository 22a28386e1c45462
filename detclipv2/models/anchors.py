"""Anchors: one square for each cell (section 3.2 of arXiv:2304.04514; ATSS)."""

import math

import torch
from torch import Tensor

# Pixels; the stride of the backbone's last level, to whose multiples images are padded.
SIZE_DIVISOR = 32


def make_anchors(
    level_sizes: list[tuple[int, int]], strides: list[int], *, scale: float, device: torch.device
) -> Tensor:
    """Anchors [K, 4] (xyxy, pixels), row by row, from the first level to the last.

    Args:
        level_sizes: height and width of each feature map, in cells.
        strides: pixels a cell of each.
        scale: side of an anchor in strides. Its centre is the upper left corner of its cell (centre offset 0, as in ATSS).
        device: where the anchors are made.
    """
    levels = []
    for (height, width), stride in zip(level_sizes, strides, strict=True):
        y, x = torch.meshgrid(
            torch.arange(height, device=device, dtype=torch.float32) * stride,
            torch.arange(width, device=device, dtype=torch.float32) * stride,
            indexing="ij",
        )
        centers = torch.stack([x, y], dim=-1).reshape(-1, 2)
        half = scale * stride / 2
        levels.append(torch.cat([centers - half, centers + half], dim=-1))
    return torch.cat(levels)


def valid_anchors(anchors_xyxy: Tensor, image_sizes_hw: list[tuple[int, int]]) -> Tensor:
    """Bool [B, K]: whether the centre of each anchor is on each image, not on the padding that a larger neighbour needs.

    As in mmdetection, an image ends at the next multiple of 32 px: what it is padded to even when it is alone.
    """
    centers = (anchors_xyxy[:, :2] + anchors_xyxy[:, 2:]) / 2  # [K, 2] as x, y
    ends_wh = torch.tensor(
        [
            [math.ceil(side / SIZE_DIVISOR) * SIZE_DIVISOR for side in (width, height)]
            for height, width in image_sizes_hw
        ],
        device=anchors_xyxy.device,
    )
    return (centers[None] < ends_wh[:, None]).all(-1)
