from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from detclipv2.ops import chunked
from detclipv2.ops.word_region import best_region_similarity, best_word_similarity, soft_region_similarity

U, B, K, D = 7, 4, 5, 6
MASK = torch.tensor([[True] * 5, [True, False, True, False, False], [False] * 5, [False, True, True, True, True]])
CAPTIONS = [[0], [1, 2, 3, 4], [5, 0], [6, 3, 2], [4, 1]]
TEMPERATURE = 0.3

Similarity = Callable[..., Tensor]


def _inputs(scale: float = 1.0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    texts, regions = (torch.randn(s, generator=generator, dtype=torch.float64) for s in [(U, D), (B, K, D)])
    return [texts.to(dtype).requires_grad_(), (scale * regions).to(dtype).requires_grad_()]


def _best_region(texts: Tensor, regions: Tensor) -> Tensor:
    return best_region_similarity(texts, regions, MASK)


def _soft_region(texts: Tensor, regions: Tensor) -> Tensor:
    return soft_region_similarity(texts, regions, MASK, temperature=TEMPERATURE)


def _best_word(texts: Tensor, regions: Tensor) -> Tensor:
    return best_word_similarity(texts, regions, MASK, CAPTIONS)


def _naive_of_texts(texts: Tensor, regions: Tensor, pool: Callable[[Tensor], Tensor]) -> Tensor:
    """One text and one image at a time."""
    rows = []
    for text in texts:
        row = []
        for image in range(B):
            found = [text @ regions[image, k] for k in range(K) if MASK[image, k]]
            row.append(pool(torch.stack(found)) if found else texts.new_zeros(()))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def _naive_best_region(texts: Tensor, regions: Tensor) -> Tensor:
    return _naive_of_texts(texts, regions, torch.max)


def _naive_soft_region(texts: Tensor, regions: Tensor) -> Tensor:
    def pool(found: Tensor) -> Tensor:
        weights = (found / TEMPERATURE).exp()
        return (weights / weights.sum() * found).sum()

    return _naive_of_texts(texts, regions, pool)


def _naive_best_word(texts: Tensor, regions: Tensor) -> Tensor:
    rows = []
    for caption in CAPTIONS:
        row = []
        for image in range(B):
            best = [
                torch.stack([texts[text] @ regions[image, k] for text in caption]).max()
                for k in range(K)
                if MASK[image, k]
            ]
            row.append(torch.stack(best).mean() if best else texts.new_zeros(()))
        rows.append(torch.stack(row))
    return torch.stack(rows)


EACH = pytest.mark.parametrize(
    ("ours", "naive"),
    [(_best_region, _naive_best_region), (_soft_region, _naive_soft_region), (_best_word, _naive_best_word)],
    ids=["best region", "soft region", "best word"],
)


def _gradients(similarity: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    probe = torch.randn(similarity.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.autograd.grad((similarity * probe.to(similarity.dtype)).sum(), inputs)


@EACH
@pytest.mark.parametrize("chunk_elements", [1, 2 * B * K + 3, 4 * B * K, None])  # a text or caption a chunk, a few, all
def test_value_and_gradient_equal_a_double_loop(
    ours: Similarity, naive: Similarity, chunk_elements: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked, "CPU_CHUNK_ELEMENTS", chunk_elements or chunked.CPU_CHUNK_ELEMENTS)
    inputs = _inputs()

    found, wanted = ours(*inputs), naive(*inputs)

    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(_gradients(found, inputs), _gradients(wanted, inputs), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-12)


@EACH
def test_single_precision(ours: Similarity, naive: Similarity) -> None:
    inputs, single = _inputs(), _inputs(dtype=torch.float32)

    found, wanted = ours(*single), naive(*inputs)

    assert found.dtype == torch.float32
    assert float((found.double() - wanted).norm() / wanted.norm()) < 1e-6
    for mine, exact in zip(_gradients(found, single), _gradients(wanted, inputs), strict=True):
        assert float((mine.double() - exact).norm() / exact.norm()) < 1e-6


@EACH
def test_half_precision_and_autocast_compute_in_single(ours: Similarity, naive: Similarity) -> None:
    half = _inputs(dtype=torch.bfloat16)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = ours(*half)
        gradients = _gradients(found, half)

    exact = [tensor.detach().float().requires_grad_() for tensor in half]
    wanted = naive(*exact)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(gradients, _gradients(wanted, exact), strict=True):
        torch.testing.assert_close(mine, theirs.bfloat16())


@EACH
def test_gradcheck(ours: Similarity, naive: Similarity, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "CPU_CHUNK_ELEMENTS", 3 * B * K)
    torch.autograd.gradcheck(ours, _inputs())


@EACH
def test_huge_similarities(ours: Similarity, naive: Similarity) -> None:
    inputs = _inputs(1e4, dtype=torch.float32)

    found = ours(*inputs)

    assert bool(found.isfinite().all())
    assert float(found.detach().abs().max()) > 1e4
    assert all(bool(gradient.isfinite().all()) for gradient in _gradients(found, inputs))


@EACH
def test_an_image_without_regions_is_similar_to_nothing(ours: Similarity, naive: Similarity) -> None:
    inputs = _inputs()

    found = ours(*inputs)

    assert not found[:, 2].any()
    assert not found[:, [0, 1, 3]].eq(0).any()
    gradient = _gradients(found, inputs)[1]
    assert not gradient[~MASK].any()
    assert bool(gradient.isfinite().all())


@EACH
def test_a_gradient_for_one_side_alone(ours: Similarity, naive: Similarity) -> None:
    for wanted in (0, 1):
        inputs = _inputs()
        exact = _gradients(naive(*inputs), inputs)[wanted]
        inputs[1 - wanted] = inputs[1 - wanted].detach()

        found = _gradients(ours(*inputs), [inputs[wanted]])[0]

        torch.testing.assert_close(found, exact)


def test_best_region_by_hand() -> None:
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    regions = torch.tensor([[[3.0, -1.0], [2.0, 5.0]], [[-4.0, 1.0], [9.0, 9.0]], [[7.0, 7.0], [8.0, 8.0]]])
    mask = torch.tensor([[True, True], [True, False], [False, False]])

    # Padding does not count; an image without any region has similarity 0 to all.
    assert best_region_similarity(texts, regions, mask).tolist() == [[3, -4, 0], [5, 1, 0]]


@pytest.mark.parametrize("best", [0, 254, 255, 256, 299, 33_000])
def test_the_region_is_remembered_whatever_its_number(best: int) -> None:
    regions = torch.zeros(1, max(best + 1, 256), 1)
    regions[0, best] = 2
    regions.requires_grad_()

    similarity = best_region_similarity(torch.ones(1, 1), regions, torch.ones(regions.shape[:2], dtype=torch.bool))
    (gradient,) = torch.autograd.grad(similarity.sum(), [regions])

    assert gradient.flatten().nonzero().tolist() == [[best]]


def test_a_cold_softmax_is_the_maximum() -> None:
    inputs = _inputs()

    cold = soft_region_similarity(*inputs, MASK, temperature=1e-4)

    torch.testing.assert_close(cold, _best_region(*inputs), rtol=1e-6, atol=1e-6)
