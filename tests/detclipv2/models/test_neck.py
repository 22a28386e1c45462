import pytest
import torch

from detclipv2.models.neck import STRIDES, Neck


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 160), (320, 320)])
def test_five_levels(height: int, width: int) -> None:
    neck = Neck([4, 6, 8], channels=5)
    sizes = [(-(-height // stride), -(-width // stride)) for stride in STRIDES]

    pyramid = neck([torch.rand(2, channels, *size) for channels, size in zip([4, 6, 8], sizes, strict=False)])

    assert [tuple(level.shape) for level in pyramid] == [(2, 5, *size) for size in sizes]


def test_the_coarse_levels_are_convolutions_of_the_output_p5_without_activation() -> None:
    neck = Neck([4, 6, 8], channels=5)
    _, _, p5, p6, p7 = neck([torch.rand(1, channels, size, size) for channels, size in [(4, 32), (6, 16), (8, 8)]])
    extra = neck.fpn.extra_blocks

    torch.testing.assert_close(p6, extra.p6(p5))
    torch.testing.assert_close(p7, extra.p7(p6))
    assert (p6 < 0).any(), "with a ReLU between P6 and P7 this test could not tell the difference"
