"""The ATSS head whose classifier gives region embeddings, with the deformable convolution of DetCLIPv2 in front.

Shapes: B images, C channels, H x W cells of a level, K anchors over all levels, D embedding width.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detclipv2.ops.deform_conv import modulated_deform_conv
from detclipv2.structures import HeadMaps

# Initial sigmoid of every region-text logit, as in focal loss (arXiv:1708.02002).
PRIOR_PROBABILITY = 0.01
# Length of every region embedding at first, if they are normalised.
INITIAL_SCALE = 10.0
_KERNEL_POINTS = 9


def _conv_norm_act(channels: int, norm_groups: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.GroupNorm(norm_groups, channels),
        nn.ReLU(inplace=True),
    )


class GuidedDeformConv(nn.Module):
    """Modulated deformable 3x3 convolution of the FPN's features, guided by the regression tower's (section 3.2).

    Offsets and modulation come from what the regression tower knows of the object's extent, so that the classification loss
    of images without boxes still teaches that tower where objects are.
    """

    def __init__(self, channels: int, *, norm_groups: int) -> None:
        super().__init__()
        self.guide = nn.Conv2d(channels, 3 * _KERNEL_POINTS, 3, padding=1)
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        nn.init.normal_(self.weight, std=0.01)
        self.norm = nn.GroupNorm(norm_groups, channels)

    def forward(self, features: Tensor, tower: Tensor) -> Tensor:
        """[B, C, H, W] from the FPN's features and the regression tower's output, both [B, C, H, W]."""
        guide = self.guide(tower).float()
        offset = guide[:, : 2 * _KERNEL_POINTS]
        mask = guide[:, 2 * _KERNEL_POINTS :].sigmoid()
        with torch.autocast(features.device.type, enabled=False):
            aggregated = modulated_deform_conv(features.float(), offset, mask, self.weight)
        return self.norm(aggregated).relu()


class LevelOutput(nn.Module):
    """Predictors shared by all levels, but for the scale of the box output."""

    def __init__(self, channels: int, embed_dim: int, num_levels: int, *, has_objectness: bool) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, embed_dim, 3, padding=1)
        self.box = nn.Conv2d(channels, 4, 3, padding=1)
        self.centerness = nn.Conv2d(channels, 1, 3, padding=1)
        self.objectness = nn.Conv2d(channels, 1, 3, padding=1) if has_objectness else None
        self.scales = nn.Parameter(torch.ones(num_levels))

    def forward(self, classification: Tensor, regression: Tensor, level: int) -> tuple[Tensor, ...]:
        """Embeddings [B, HW, D], box deltas [B, HW, 4], centerness logits [B, HW, 1] and, if any, objectness logits."""
        maps = [
            self.embed(classification),
            self.box(regression).float() * self.scales[level],
            self.centerness(regression),
        ]
        if self.objectness is not None:
            maps.append(self.objectness(regression))
        return tuple(m.float().flatten(2).transpose(1, 2) for m in maps)


class Head(nn.Module):
    """Two towers with weights shared over levels; the classification tower ends in region embeddings f^P.

    Args:
        channels: of the feature pyramid.
        num_convs: convolutions of each tower.
        norm_groups: groups of the group normalisation.
        embed_dim: D.
        num_levels: levels of the pyramid.
        deformable: whether the guided deformable convolution precedes the classification tower.
        region_norm: "raw" leaves the length of f^P free; "unit" gives every f^P the same, learnt length (method U1).
        has_objectness: whether a class-agnostic score is predicted too (rows 1 and 2 of Table 2a).
    """

    def __init__(
        self,
        *,
        channels: int,
        num_convs: int,
        norm_groups: int,
        embed_dim: int,
        num_levels: int,
        deformable: bool,
        region_norm: Literal["raw", "unit"] = "raw",
        has_objectness: bool = False,
    ) -> None:
        super().__init__()
        self.regression_tower = nn.Sequential(*(_conv_norm_act(channels, norm_groups) for _ in range(num_convs)))
        self.classification_tower = nn.Sequential(*(_conv_norm_act(channels, norm_groups) for _ in range(num_convs)))
        self.deformable = GuidedDeformConv(channels, norm_groups=norm_groups) if deformable else None
        self.output = LevelOutput(channels, embed_dim, num_levels, has_objectness=has_objectness)
        # A bias for all region-text logits (method U1): at first every concept is improbable everywhere.
        self.logit_bias = nn.Parameter(torch.tensor(-math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)))
        self.has_objectness = has_objectness
        self.region_norm = region_norm
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_SCALE).log()) if region_norm == "unit" else None
        self._init_weights()

    def _init_weights(self) -> None:
        """N(0, 0.01) for every convolution; a zero offset convolution would cut the gradient into the regression tower."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, pyramid: list[Tensor]) -> HeadMaps:
        """What the pyramid's levels [B, C, H, W] give."""
        outputs = []
        for level, features in enumerate(pyramid):
            regression = self.regression_tower(features)
            start = features if self.deformable is None else self.deformable(features, regression)
            outputs.append(self.output(self.classification_tower(start), regression, level))
        embeddings, deltas, centerness, *others = (torch.cat(parts, dim=1) for parts in zip(*outputs, strict=True))
        if self.logit_scale is not None:
            embeddings = F.normalize(embeddings, dim=-1) * self.logit_scale.exp()
        return HeadMaps(
            embeddings=embeddings,
            box_deltas=deltas,
            centerness=centerness.squeeze(-1),
            objectness=others[0].squeeze(-1) if others else None,
        )
