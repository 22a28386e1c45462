"""The feature pyramid of ATSS: five levels of stride 8 to 128."""

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

STRIDES = (8, 16, 32, 64, 128)


class _ExtraLevels(ExtraFPNBlock):
    """P6 and P7 by strided convolutions on the output P5 (torchvision's own block puts a ReLU between them; ATSS does not)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.p6 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        for conv in (self.p6, self.p7):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        p6 = self.p6(results[-1])
        return [*results, p6, self.p7(p6)], [*names, "p6", "p7"]


class Neck(nn.Module):
    """Feature pyramid network over C3, C4, C5, with P6 and P7."""

    def __init__(self, in_channels: list[int], *, channels: int) -> None:
        super().__init__()
        self.fpn = FeaturePyramidNetwork(in_channels, channels, extra_blocks=_ExtraLevels(channels))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Five maps [B, channels, H/s, W/s], s in 8..128, from the backbone's three."""
        return list(self.fpn({str(level): feature for level, feature in enumerate(features)}).values())
