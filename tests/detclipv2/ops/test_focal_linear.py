import pytest
import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from detclipv2.ops import chunked
from detclipv2.ops.focal_linear import focal_linear

N, M, D = 9, 5, 4
ROWS = torch.tensor([0, 1, 3, 4, 6, 8])
POSITIVES = torch.tensor([0, 1, 1 * M + 4, 4 * M + 2, 8 * M + 0, 8 * M + 4])  # in the [N, M] logits


def _inputs(scale: float = 1.0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator, dtype=dtype) for shape in [(N, D), (M, D), ()]]
    return [(scale * tensors[0]).requires_grad_(), tensors[1].requires_grad_(), tensors[2].requires_grad_()]


def _ours(inputs: list[Tensor], **changes: object) -> Tensor:
    arguments = {"rows": ROWS, "positives": POSITIVES, "alpha": 0.25, "gamma": 2.0} | changes
    return focal_linear(*inputs, **arguments)  # type: ignore[arg-type]


def _dense(
    inputs: list[Tensor], *, rows: Tensor = ROWS, positives: Tensor = POSITIVES, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    regions, texts, bias = inputs
    targets = torch.zeros(N * M, dtype=regions.dtype)
    targets[positives] = 1
    logits = regions @ texts.T + bias
    return sigmoid_focal_loss(logits[rows], targets.view(N, M)[rows], alpha=alpha, gamma=gamma, reduction="sum")


@pytest.mark.parametrize("chunk_elements", [1, 2 * M, 4 * M + 1, None])  # one row a chunk, two, four and two, all
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 1.0), (0.25, 1.5), (0.5, 0.0), (1.0, 2.0)])
def test_value_and_gradient_equal_torchvision(
    alpha: float, gamma: float, chunk_elements: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked, "CPU_CHUNK_ELEMENTS", chunk_elements or chunked.CPU_CHUNK_ELEMENTS)
    inputs = _inputs(3.0)

    found = _ours(inputs, alpha=alpha, gamma=gamma)
    wanted = _dense(inputs, alpha=alpha, gamma=gamma)

    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
    for ours, theirs in zip(torch.autograd.grad(found, inputs), torch.autograd.grad(wanted, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("gamma", [2.0, 1.5])
def test_gradcheck(gamma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "CPU_CHUNK_ELEMENTS", 2 * M)
    torch.autograd.gradcheck(lambda *inputs: 3 * _ours(list(inputs), gamma=gamma), _inputs())


def test_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "CPU_CHUNK_ELEMENTS", 2 * M)
    inputs = _inputs(3.0)
    single = [tensor.detach().float().requires_grad_() for tensor in inputs]

    found, wanted = _ours(single), _dense(inputs)

    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=0)
    for ours, exact in zip(torch.autograd.grad(found, single), torch.autograd.grad(wanted, inputs), strict=True):
        assert float((ours.double() - exact).norm() / exact.norm()) < 1e-6


def test_half_precision_and_autocast_compute_in_single() -> None:
    half = [tensor.detach().bfloat16() for tensor in _inputs()]

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = _ours(half)

    torch.testing.assert_close(found, _dense([tensor.float() for tensor in half]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("gamma", [2.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_huge_logits(dtype: torch.dtype, gamma: float, sign: float) -> None:
    regions = torch.tensor([[sign * 1e4], [0.0]], dtype=dtype, requires_grad=True)
    texts = torch.ones(2, 1, dtype=dtype, requires_grad=True)
    bias = torch.zeros((), dtype=dtype, requires_grad=True)

    # A positive and a negative of the same huge logit.
    loss = focal_linear(
        regions, texts, bias, rows=torch.tensor([0]), positives=torch.tensor([0]), alpha=0.25, gamma=gamma
    )
    gradients = torch.autograd.grad(loss, [regions, texts, bias])

    # Where the logit is wrong, the loss is its size; where it is right, nothing.
    wrong = 0.75 if sign > 0 else 0.25
    assert float(loss.detach()) == pytest.approx(wrong * 1e4)
    assert gradients[0].flatten().tolist() == pytest.approx([sign * wrong, 0])
    of_texts = [0, 0.75e4] if sign > 0 else [0.25e4, 0]
    assert gradients[1].flatten().tolist() == pytest.approx(of_texts)
    assert float(gradients[2]) == pytest.approx(sign * wrong)


def test_without_positives_and_without_rows() -> None:
    inputs, none = _inputs(), torch.zeros(0, dtype=torch.long)

    torch.testing.assert_close(_ours(inputs, positives=none), _dense(inputs, positives=none))

    nothing = _ours(inputs, rows=none, positives=none)
    assert float(nothing.detach()) == 0
    assert not any(gradient.any() for gradient in torch.autograd.grad(nothing, inputs))


def test_gradients_that_nobody_wants() -> None:
    regions, texts, bias = _inputs()
    wanted = torch.autograd.grad(_dense([regions, texts, bias]), [texts])[0]

    found = torch.autograd.grad(_ours([regions.detach(), texts, bias.detach()]), [texts])[0]

    torch.testing.assert_close(found, wanted)
    with torch.no_grad():
        assert not _ours([regions, texts, bias]).requires_grad


def test_backward_twice_gives_the_same() -> None:
    inputs = _inputs()
    loss = _ours(inputs)

    once = torch.autograd.grad(2 * loss, inputs, retain_graph=True)
    again = torch.autograd.grad(2 * loss, inputs)

    for first, second in zip(once, again, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)
