import math
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from detclipv2.losses.contrastive import (
    contrastive_loss,
    word_region_loss,
    word_region_similarity,
)
from detclipv2.ops.word_region import best_word_similarity

MASK = torch.tensor(
    [[True] * 5, [True, True, False, False, False], [False] * 5, [True] * 4 + [False], [True] + [False] * 4]
)
CAPTIONS = [[0], [1, 2, 3, 4], [2, 6], [5, 0], [6, 3, 2]]
SOFT_TEMPERATURE = 0.2

Matching = Literal["hard", "soft"]
Direction = Literal["text_to_image", "image_to_text", "both"]


def _naive_word_region(texts: Tensor, regions: Tensor, *, image: int, caption: list[int], matching: Matching) -> Tensor:
    """Eqs. 2 to 4 of one image and one caption, a word at a time."""
    words = []
    for text in caption:
        found = [texts[text] @ regions[image, k] for k in range(regions.shape[1]) if MASK[image, k]]
        if not found:
            return texts.new_zeros(())
        similarity = torch.stack(found)
        weights = (similarity / SOFT_TEMPERATURE).exp()
        words.append(similarity.max() if matching == "hard" else (weights * similarity).sum() / weights.sum())
    return torch.stack(words).mean()


def _naive_region_word(texts: Tensor, regions: Tensor, *, image: int, caption: list[int]) -> Tensor:
    """FILIP's other half, a region at a time."""
    best = [
        torch.stack([texts[text] @ regions[image, k] for text in caption]).max()
        for k in range(regions.shape[1])
        if MASK[image, k]
    ]
    return torch.stack(best).mean() if best else texts.new_zeros(())


def _naive_cross_entropy(rows: list[list[Tensor]], *, smoothing: float) -> Tensor:
    """Eq. 5 of similarities whose right column is that of the row's number."""
    total = rows[0][0].new_zeros(())
    for i, row in enumerate(rows):
        logits = torch.stack(row) / 0.5
        log_share = logits - logits.exp().sum().log()
        total = total - (1 - smoothing) * log_share[i] - smoothing * log_share.mean()
    return total / len(rows)


def _naive(texts: Tensor, regions: Tensor, *, matching: Matching, direction: Direction, smoothing: float) -> Tensor:
    count, losses = len(CAPTIONS), []
    if direction != "image_to_text":
        rows = [
            [_naive_word_region(texts, regions, image=j, caption=caption, matching=matching) for j in range(count)]
            for caption in CAPTIONS
        ]
        losses.append(_naive_cross_entropy(rows, smoothing=smoothing))
    if direction != "text_to_image":
        rows = [
            [_naive_region_word(texts, regions, image=j, caption=caption) for caption in CAPTIONS] for j in range(count)
        ]
        losses.append(_naive_cross_entropy(rows, smoothing=smoothing))
    return torch.stack(losses).mean()


def _inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    texts = F.normalize(torch.randn(7, 8, generator=generator, dtype=torch.float64), dim=-1)
    regions = torch.randn(5, 5, 8, generator=generator, dtype=torch.float64)
    return texts.to(dtype).requires_grad_(), regions.to(dtype).requires_grad_()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("direction", ["text_to_image", "image_to_text", "both"])
@pytest.mark.parametrize("matching", ["hard", "soft"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_value_and_gradient_equal_a_double_loop(
    dtype: torch.dtype, bound: float, matching: Matching, direction: Direction, smoothing: float
) -> None:
    exact, ours = _inputs(torch.float64), _inputs(dtype)

    wanted = _naive(*exact, matching=matching, direction=direction, smoothing=smoothing)
    found = word_region_loss(
        *ours,
        MASK,
        CAPTIONS,
        matching=matching,
        direction=direction,
        soft_temperature=SOFT_TEMPERATURE,
        temperature=0.5,
        label_smoothing=smoothing,
    )

    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=bound)
    for gradient, reference in zip(torch.autograd.grad(found, ours), torch.autograd.grad(wanted, exact), strict=True):
        assert float((gradient.double() - reference).norm() / reference.norm()) < bound


def test_similarities_by_hand() -> None:
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    regions = torch.tensor([[[3.0, -1.0], [2.0, 5.0]], [[-4.0, 1.0], [9.0, 9.0]], [[7.0, 7.0], [8.0, 8.0]]])
    mask = torch.tensor([[True, True], [True, False], [False, False]])
    captions = [[1], [0, 1]]

    # The best regions are 3 and -4 for the first text, 5 and 1 for the second.
    assert word_region_similarity(texts, regions, mask, captions).tolist() == [[5, 1, 0], [4, -1.5, 0]]
    # Of the first image's regions the second text has -1 and 5, and the better of both texts is 3 and 5.
    assert best_word_similarity(texts, regions, mask, captions).tolist() == [[2, 1, 0], [4, 1, 0]]
    # At tau_t = 1 / ln 2, 5 weighs 64 times as much as -1, and 3 twice as much as 2.
    soft = word_region_similarity(texts, regions, mask, captions, matching="soft", soft_temperature=1 / math.log(2))
    second, first = (64 * 5 - 1) / 65, (2 * 3 + 2) / 3
    assert soft.flatten().tolist() == pytest.approx([second, 1, 0, (first + second) / 2, -1.5, 0], rel=1e-6)


@pytest.mark.parametrize("direction", ["text_to_image", "image_to_text", "both"])
@pytest.mark.parametrize("matching", ["hard", "soft"])
def test_an_image_without_regions_gives_no_nan(matching: Matching, direction: Direction) -> None:
    texts, regions = torch.eye(2, requires_grad=True), torch.rand(2, 3, 2, requires_grad=True)
    mask = torch.tensor([[True, True, True], [False, False, False]])

    loss = word_region_loss(texts, regions, mask, [[0], [1]], matching=matching, direction=direction)
    gradients = torch.autograd.grad(loss, [texts, regions])

    assert math.isfinite(float(loss.detach()))
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert float(gradients[1][1].abs().sum()) == 0


@pytest.mark.parametrize("direction", ["text_to_image", "image_to_text"])
def test_a_caption_without_concepts(direction: Direction) -> None:
    with pytest.raises(ValueError, match=r"captions \[1, 2\] have no concept: each needs a phrase, or its whole text"):
        word_region_loss(
            torch.eye(2),
            torch.ones(1, 1, 2),
            torch.ones(1, 1, dtype=torch.bool),
            [[0], [], []],
            direction=direction,
        )


def test_the_loss_goes_from_text_to_images() -> None:
    similarity = torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # both captions are nearer to the first image

    loss = contrastive_loss(similarity, temperature=0.5, label_smoothing=0.0)

    # Softmax over images: -ln(e^2 / (e^2 + 1)) and -ln(1 / (e^2 + 1)).
    assert float(loss) == pytest.approx((math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2))) / 2)
    # Softmax over captions: neither image can tell them apart.
    other = contrastive_loss(similarity, direction="image_to_text", temperature=0.5, label_smoothing=0.0)
    assert float(other) == pytest.approx(math.log(2))


@pytest.mark.parametrize("direction", ["text_to_image", "image_to_text"])
def test_chance_level_and_label_smoothing(direction: Literal["text_to_image", "image_to_text"]) -> None:
    # Equal similarities: the logarithm of the number of images, whatever the smoothing.
    chance = contrastive_loss(torch.zeros(6, 6), direction=direction, label_smoothing=0.1)
    assert float(chance) == pytest.approx(math.log(6))

    similarity = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    rows = similarity if direction == "text_to_image" else similarity.T
    wanted = F.cross_entropy(rows / 0.2, torch.arange(6), label_smoothing=0.3)
    found = contrastive_loss(similarity, direction=direction, temperature=0.2, label_smoothing=0.3)
    assert float(found) == pytest.approx(float(wanted))
