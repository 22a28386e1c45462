import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from detclipv2.structures import Batch, float_pixels


def _with(batch: Batch, **changes: Any) -> Batch:
    return replace(batch, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixels": torch.full((2, 3, 64, 64), torch.nan)}, "detection sample 'image-0': a pixel is not finite"),
        ({"boxes_xyxy": [torch.zeros(0, 4), torch.tensor([[0.0, 0, torch.inf, 9]])]}, "'image-1': a box is not finite"),
        ({"labels": [torch.tensor([2]), torch.tensor([0])]}, "'image-0': label 2, but it has 1 concept"),
        ({"labels": [torch.tensor([0]), torch.tensor([-1])]}, "'image-1': label -1, but it has 1 concept"),
        ({"concepts": [["dog"], ["cat", " "]]}, "'image-1': concept number 1 is empty"),
    ],
)
def test_what_would_make_a_loss_that_is_no_number(
    changes: dict[str, Any], message: str, make_batch: Callable[..., Batch]
) -> None:
    batch = make_batch("detection", [["dog"], ["cat"]], [[[1.0, 1, 9, 9]], [[1.0, 1, 9, 9]]])

    with pytest.raises(ValueError, match=message):
        _with(batch, **changes)


def test_a_batch_moves_whole(make_batch: Callable[..., Batch]) -> None:
    batch = make_batch("detection", [["dog"], ["cat"]], [[[1.0, 1, 9, 9]], []])

    moved = batch.to(torch.device("meta"))

    assert moved.pixels.device.type == "meta"
    assert {tensor.device.type for tensor in [*moved.boxes_xyxy, *moved.labels]} == {"meta"}
    assert (moved.keys, moved.concepts, moved.image_sizes_hw) == (batch.keys, batch.concepts, batch.image_sizes_hw)


def test_bytes_travel_and_become_numbers_from_0_to_1(make_batch: Callable[..., Batch]) -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(2, 3, 16, 1)
    batch = _with(make_batch("detection", [["dog"], ["cat"]]), pixels=pixels)

    assert batch.to(torch.device("meta")).pixels.dtype == torch.uint8
    assert torch.equal(float_pixels(pixels), pixels.float() / 255)
    numbers = float_pixels(pixels)
    assert float_pixels(numbers) is numbers
    assert float_pixels(pixels.to("meta")).dtype == torch.float32


def test_a_batch_passes_between_processes(make_batch: Callable[..., Batch]) -> None:
    batch = make_batch("detection", [["dog"], ["cat"]], [[[1.0, 1, 9, 9]], []])

    found = pickle.loads(pickle.dumps(batch))

    assert torch.equal(found.pixels, batch.pixels)
    for ours, theirs in zip([*found.boxes_xyxy, *found.labels], [*batch.boxes_xyxy, *batch.labels], strict=True):
        assert torch.equal(ours, theirs) and ours.dtype == theirs.dtype
    assert (found.keys, found.concepts, found.image_sizes_hw) == (batch.keys, batch.concepts, batch.image_sizes_hw)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_pinned_pixels(make_batch: Callable[..., Batch]) -> None:
    assert make_batch("detection", [["dog"]]).pin_memory().pixels.is_pinned()
