import math
from typing import Any

import pytest
import torch
from torch import Tensor

from detclipv2.losses.alignment import alignment_loss
from detclipv2.ops import chunked

ONE = torch.tensor(1.0)


def _focal(logit: float, target: float, *, alpha: float = 0.25, gamma: float = 2.0) -> float:
    p, not_p = 1 / (1 + math.exp(-logit)), 1 / (1 + math.exp(logit))
    if target:
        return -alpha * not_p**gamma * math.log(p)
    return -(1 - alpha) * p**gamma * math.log(not_p)


def _loss(
    embeddings: Tensor, texts: Tensor, bias: Tensor, positions: list[tuple[int, int, int]], **arguments: Any
) -> Tensor:
    image_index, anchor_index, concept_index = torch.tensor(positions, dtype=torch.long).view(-1, 3).unbind(1)
    return alignment_loss(
        embeddings,
        texts,
        bias,
        image_index=image_index,
        anchor_index=anchor_index,
        concept_index=concept_index,
        **arguments,
    )


def test_by_hand() -> None:
    # Logits 0 and 2.
    embeddings, texts = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])

    loss = _loss(embeddings, texts, -ONE, [(0, 0, 0)], valid=torch.ones(1, 1, dtype=torch.bool), num_positives=ONE)

    # 0.25 * 0.5^2 * ln 2 + 0.75 * sigmoid(2)^2 * ln(1 + e^2)
    assert float(loss) == pytest.approx(0.0433217 + 0.75 * 0.8807971**2 * 2.1269280, rel=1e-6)


@pytest.mark.parametrize("chunk_elements", [1, 7, None])
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 1.0)])
def test_every_anchor_on_the_image_meets_every_concept(
    alpha: float, gamma: float, chunk_elements: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked, "CPU_CHUNK_ELEMENTS", chunk_elements or chunked.CPU_CHUNK_ELEMENTS)
    generator = torch.Generator().manual_seed(0)
    embeddings = 3 * torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    texts = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    bias = torch.tensor(-0.7, dtype=torch.float64)
    valid = torch.tensor([[True, True, True, False, True], [False, True, True, True, True]])
    # Two concepts of one anchor, one position twice, the last concept beside the next anchor's first, anchors on padding.
    positions = [(1, 4, 2), (0, 1, 2), (0, 2, 0), (0, 0, 1), (0, 1, 2), (0, 0, 0), (1, 0, 1), (0, 3, 0)]

    loss = _loss(
        embeddings,
        texts,
        bias,
        positions,
        valid=valid,
        num_positives=torch.tensor(2.5),
        alpha=alpha,
        gamma=gamma,
    )

    total = sum(
        _focal(float(embeddings[b, k] @ texts[m] + bias), float((b, k, m) in positions), alpha=alpha, gamma=gamma)
        for b in range(2)
        for k in range(5)
        for m in range(3)
        if valid[b, k]
    )
    assert float(loss) == pytest.approx(total / 2.5, rel=1e-12)


def test_without_positives_it_is_divided_by_one() -> None:
    embeddings, texts, zero = torch.zeros(1, 4, 2), torch.ones(1, 2), torch.tensor(0.0)

    loss = _loss(embeddings, texts, zero, [], valid=torch.ones(1, 4, dtype=torch.bool), num_positives=zero)

    assert float(loss) == pytest.approx(4 * 0.75 * 0.25 * math.log(2))


def test_without_a_valid_anchor_there_is_no_loss_but_a_gradient_of_zero() -> None:
    embeddings, texts = torch.ones(2, 3, 2, requires_grad=True), torch.ones(2, 2, requires_grad=True)
    valid = torch.zeros(2, 3, dtype=torch.bool)

    loss = _loss(embeddings, texts, ONE, [(1, 2, 0)], valid=valid, num_positives=ONE)
    gradients = torch.autograd.grad(loss, [embeddings, texts])

    assert float(loss.detach()) == 0
    assert not any(gradient.any() for gradient in gradients)


def test_anchors_on_padding_have_no_gradient() -> None:
    embeddings = torch.ones(2, 2, 2, requires_grad=True)
    valid = torch.tensor([[True, False], [False, True]])

    loss = _loss(embeddings, torch.ones(1, 2), ONE, [(0, 0, 0)], valid=valid, num_positives=ONE)

    (gradient,) = torch.autograd.grad(loss, [embeddings])
    assert gradient.any(-1).tolist() == valid.tolist()
