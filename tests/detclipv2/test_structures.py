from collections.abc import Callable

import torch

from detclipv2.structures import Batch


def test_a_batch_moves_whole(make_batch: Callable[..., Batch]) -> None:
    batch = make_batch("detection", [["dog"], []], [[[0.0, 0, 8, 8]], []])

    moved = batch.to(torch.device("meta"))

    assert {t.device.type for t in (moved.pixels, *moved.boxes_xyxy, *moved.labels)} == {"meta"}
    assert (moved.keys, moved.concepts, moved.image_sizes_hw) == (batch.keys, batch.concepts, batch.image_sizes_hw)
    assert moved.supervision == "detection"
