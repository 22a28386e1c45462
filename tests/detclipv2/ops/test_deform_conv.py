import pytest
import torch
from torch import Tensor
from torchvision.ops import deform_conv2d

from detclipv2.ops.deform_conv import modulated_deform_conv


def _inputs(scale: float, *, batch: int = 2, channels: int = 3, height: int = 5, width: int = 7) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [
        (batch, channels, height, width),
        (batch, 18, height, width),
        (batch, 9, height, width),
        (4, channels, 3, 3),
    ]
    features, offset, mask, weight = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in shapes)
    return [features, offset * scale, mask.sigmoid(), weight]


def _values_and_gradients(inputs: list[Tensor], *, ours: bool) -> list[Tensor]:
    features, offset, mask, weight = leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    if ours:
        output = modulated_deform_conv(features, offset, mask, weight)
    else:
        output = deform_conv2d(features, offset, weight, padding=1, mask=mask)
    probe = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [output.detach(), *torch.autograd.grad((output * probe).sum(), leaves)]


def _assert_equal_to_torchvision(inputs: list[Tensor]) -> None:
    found, wanted = _values_and_gradients(inputs, ours=True), _values_and_gradients(inputs, ours=False)
    for name, ours, theirs in zip(["output", "features", "offset", "mask", "weight"], found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("scale", [0.3, 3.0, 30.0, 1e6])
def test_values_and_gradients_equal_torchvision(scale: float) -> None:
    _assert_equal_to_torchvision(_inputs(scale))


def test_whole_cells_equal_torchvision() -> None:
    features, offset, mask, weight = _inputs(4.0)

    _assert_equal_to_torchvision([features, torch.zeros_like(offset), mask, weight])
    _assert_equal_to_torchvision([features, offset.round(), mask, weight])


def test_a_single_cell() -> None:
    _assert_equal_to_torchvision(_inputs(1.0, batch=1, height=1, width=1))


def test_without_offsets_it_is_a_convolution() -> None:
    features, offset, mask, weight = _inputs(0.0)

    found = modulated_deform_conv(features, offset, torch.ones_like(mask), weight)

    torch.testing.assert_close(found, torch.nn.functional.conv2d(features, weight, padding=1))


def test_offsets_that_are_no_numbers_show_in_the_output() -> None:
    features, offset, mask, weight = _inputs(1.0, batch=1)
    offset[0, 0, 2, 3] = torch.nan
    offset[0, 7, 4, 4] = torch.inf

    spoilt = modulated_deform_conv(features, offset, mask, weight).isnan().any(1).nonzero().tolist()

    assert spoilt == [[0, 2, 3], [0, 4, 4]]
