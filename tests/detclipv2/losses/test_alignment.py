import math

import pytest
import torch

from detclipv2.losses.alignment import alignment_loss, alignment_targets


def _focal(logit: float, target: float, *, alpha: float = 0.25, gamma: float = 2.0) -> float:
    p = 1 / (1 + math.exp(-logit))
    if target:
        return -alpha * (1 - p) ** gamma * math.log(p)
    return -(1 - alpha) * p**gamma * math.log(1 - p)


def test_by_hand() -> None:
    logits = torch.tensor([[[0.0, 2.0]]])
    targets = torch.tensor([[[1.0, 0.0]]])

    loss = alignment_loss(logits, targets, valid=torch.ones(1, 1, dtype=torch.bool), num_positives=torch.tensor(1.0))

    # 0.25 * 0.5^2 * ln 2 + 0.75 * sigmoid(2)^2 * ln(1 + e^2)
    assert float(loss) == pytest.approx(0.0433217 + 0.75 * 0.8807971**2 * 2.1269280, rel=1e-6)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 1.0)])
def test_every_anchor_on_the_picture_meets_every_concept(alpha: float, gamma: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 5, 3, generator=generator)
    targets = (torch.rand(2, 5, 3, generator=generator) < 0.3).float()
    valid = torch.tensor([[True, True, True, False, True], [False, True, True, True, True]])

    loss = alignment_loss(logits, targets, valid=valid, num_positives=torch.tensor(2.5), alpha=alpha, gamma=gamma)

    total = sum(
        _focal(logits[b, k, m].item(), targets[b, k, m].item(), alpha=alpha, gamma=gamma)
        for b in range(2)
        for k in range(5)
        for m in range(3)
        if valid[b, k]
    )
    assert float(loss) == pytest.approx(total / 2.5, rel=1e-5)


def test_without_positives_it_is_divided_by_one() -> None:
    logits, valid = torch.zeros(1, 4, 1), torch.ones(1, 4, dtype=torch.bool)

    loss = alignment_loss(logits, torch.zeros(1, 4, 1), valid=valid, num_positives=torch.tensor(0.0))

    assert float(loss) == pytest.approx(4 * 0.75 * 0.25 * math.log(2))


def test_targets_by_hand() -> None:
    targets = alignment_targets(
        num_images=2,
        num_anchors=3,
        num_concepts=2,
        image_index=torch.tensor([0, 1, 1]),
        anchor_index=torch.tensor([2, 0, 1]),
        concept_index=torch.tensor([1, 0, 1]),
    )

    assert targets.tolist() == [[[0, 0], [0, 0], [0, 1]], [[1, 0], [0, 1], [0, 0]]]
