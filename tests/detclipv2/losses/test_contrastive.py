import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from detclipv2.losses.contrastive import best_region_similarity, caption_weights, contrastive_loss


def _naive(texts: Tensor, regions: Tensor, mask: Tensor, captions: list[list[int]], *, smoothing: float) -> Tensor:
    """Eqs. 2, 3 and 5, one pair and one word at a time."""
    count = len(captions)
    total = torch.zeros((), dtype=texts.dtype)
    for i in range(count):
        row = []
        for j in range(count):
            words = []
            for text in captions[i]:
                similarities = [texts[text] @ regions[j, k] for k in range(regions.shape[1]) if mask[j, k]]
                words.append(torch.stack(similarities).max())
            row.append(torch.stack(words).mean() / 0.5)
        log_share = torch.stack(row) - torch.stack(row).exp().sum().log()
        total = total - (1 - smoothing) * log_share[i] - smoothing * log_share.mean()
    return total / count


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_value_and_gradient_equal_a_double_loop(smoothing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    texts = F.normalize(torch.randn(7, 8, generator=generator, dtype=torch.float64), dim=-1)
    regions = torch.randn(4, 5, 8, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False], [True] * 4 + [False], [True] + [False] * 4])
    captions = [[0], [1, 2, 3, 4], [5, 0], [6, 3, 2]]

    exact = (texts.clone().requires_grad_(), regions.clone().requires_grad_())
    wanted = _naive(*exact, mask, captions, smoothing=smoothing)
    ours = (texts.float().requires_grad_(), regions.float().requires_grad_())
    best = best_region_similarity(*ours, mask)
    weights = caption_weights(captions, 7, device=torch.device("cpu"))
    found = contrastive_loss(weights @ best, temperature=0.5, label_smoothing=smoothing)

    assert float(found) == pytest.approx(float(wanted), rel=1e-6)
    for gradient, reference in zip(torch.autograd.grad(found, ours), torch.autograd.grad(wanted, exact), strict=True):
        assert float((gradient.double() - reference).norm() / reference.norm()) < 1e-6


def test_similarity_by_hand() -> None:
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    regions = torch.tensor([[[3.0, -1.0], [2.0, 5.0]], [[-4.0, 1.0], [9.0, 9.0]], [[7.0, 7.0], [8.0, 8.0]]])
    mask = torch.tensor([[True, True], [True, False], [False, False]])

    # Padding does not count; a picture without any region has similarity 0 to all.
    assert best_region_similarity(texts, regions, mask).tolist() == [[3, -4, 0], [5, 1, 0]]


def test_an_image_without_regions_gives_no_nan() -> None:
    texts, regions = torch.eye(2, requires_grad=True), torch.rand(2, 3, 2, requires_grad=True)
    mask = torch.tensor([[True, True, True], [False, False, False]])

    loss = contrastive_loss(torch.eye(2) @ best_region_similarity(texts, regions, mask))
    gradients = torch.autograd.grad(loss, [texts, regions])

    assert math.isfinite(float(loss.detach()))
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert float(gradients[1][1].abs().sum()) == 0


def test_caption_weights_take_the_mean_over_concepts() -> None:
    weights = caption_weights([[0, 2], [1], [0, 1, 2]], 3, device=torch.device("cpu"))

    assert weights.tolist() == [pytest.approx(row) for row in ([0.5, 0, 0.5], [0, 1, 0], [1 / 3] * 3)]


def test_the_loss_goes_from_text_to_images() -> None:
    similarity = torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # both captions are nearer to the first picture

    loss = contrastive_loss(similarity, temperature=0.5, label_smoothing=0.0)

    # Softmax over pictures: -ln(e^2 / (e^2 + 1)) and -ln(1 / (e^2 + 1)).
    assert float(loss) == pytest.approx((math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2))) / 2)


def test_chance_level_and_label_smoothing() -> None:
    # Equal similarities: the logarithm of the number of pictures, whatever the smoothing.
    assert float(contrastive_loss(torch.zeros(6, 6), label_smoothing=0.1)) == pytest.approx(math.log(6))

    similarity = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    wanted = F.cross_entropy(similarity / 0.2, torch.arange(6), label_smoothing=0.3)
    assert float(contrastive_loss(similarity, temperature=0.2, label_smoothing=0.3)) == pytest.approx(float(wanted))
