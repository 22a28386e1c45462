"""Modulated deformable 3x3 convolution (arXiv:1811.11168), fast on a CPU.

Shapes: B images, C channels, H x W cells, P = 9 kernel points, O output channels.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

_POINTS = 9


def modulated_deform_conv(features: Tensor, offset: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """``torchvision.ops.deform_conv2d`` with kernel 3, stride 1 and padding 1: the same values, by another way on a CPU.

    torchvision's CPU kernel is scalar, and its backward pass took half of a training step; benchmarks/deform_conv.py
    compares the two.

    Args:
        features: [B, C, H, W].
        offset: [B, 2 P, H, W] in cells, (dy, dx) of each kernel point in turn.
        mask: [B, P, H, W], factor of each kernel point.
        weight: [O, C, 3, 3].

    Returns:
        [B, O, H, W].
    """
    if features.device.type != "cpu":
        return deform_conv2d(features, offset, weight, padding=1, mask=mask)
    return _by_weighted_rows(features, offset, mask, weight)


def _by_weighted_rows(features: Tensor, offset: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """Bilinear sampling as a weighted sum of four rows of a [B (H+2) (W+2), C] table, then one matrix product.

    The ring of zeros around every image is all that is outside.
    """
    batch, channels, height, width = features.shape
    device = features.device
    kernel_y, kernel_x = torch.meshgrid(
        torch.arange(-1, 2, device=device), torch.arange(-1, 2, device=device), indexing="ij"
    )
    y = offset[:, 0::2] + kernel_y.reshape(1, _POINTS, 1, 1) + torch.arange(height, device=device).view(1, 1, -1, 1)
    x = offset[:, 1::2] + kernel_x.reshape(1, _POINTS, 1, 1) + torch.arange(width, device=device).view(1, 1, 1, -1)
    # A NaN is no index; its share below stays NaN, so that it shows in the loss.
    top, left = y.detach().floor().nan_to_num(), x.detach().floor().nan_to_num()
    bottom_share, right_share = y - top, x - left
    image = torch.arange(batch, device=device).view(-1, 1, 1, 1)
    rows, shares = [], []
    for dy, share_y in ((0, 1 - bottom_share), (1, bottom_share)):
        row = image * (height + 2) + (top + dy + 1).clamp(0, height + 1).long()
        for dx, share_x in ((0, 1 - right_share), (1, right_share)):
            rows.append(row * (width + 2) + (left + dx + 1).clamp(0, width + 1).long())
            shares.append(share_y * share_x * mask)
    table = F.pad(features, (1, 1, 1, 1)).permute(0, 2, 3, 1).reshape(-1, channels)
    sampled = F.embedding_bag(
        torch.stack(rows, dim=-1).reshape(-1, 4),
        table,
        per_sample_weights=torch.stack(shares, dim=-1).reshape(-1, 4),
        mode="sum",
    )  # [B P H W, C]
    patches = (
        sampled.reshape(batch, _POINTS, height * width, channels).permute(0, 2, 1, 3).reshape(-1, _POINTS * channels)
    )
    kernel = weight.permute(2, 3, 1, 0).reshape(_POINTS * channels, -1)
    return (patches @ kernel).reshape(batch, height, width, -1).permute(0, 3, 1, 2)
