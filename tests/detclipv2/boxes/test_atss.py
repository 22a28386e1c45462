import math
import statistics
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from detclipv2.boxes import atss
from detclipv2.boxes.atss import assign, centerness_target
from detclipv2.models.anchors import make_anchors

SIZES, STRIDES = [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)], [8, 16, 32, 64, 128]
NUM_ANCHORS = [height * width for height, width in SIZES]


def _anchors(scale: float = 4.0) -> Tensor:
    return make_anchors(SIZES, STRIDES, scale=scale, device=torch.device("cpu")).double()


def _random_boxes(count: int, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    sides = 4 + 90 * torch.rand(count, 2, generator=generator, dtype=torch.float64) ** 2
    corners = torch.rand(count, 2, generator=generator, dtype=torch.float64) * (128 - sides)
    return torch.cat([corners, corners + sides], dim=1)


def _iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (areas - width * height)


def _reference(boxes: Tensor, anchors: Tensor, valid: Tensor, *, topk: int) -> dict[int, int]:
    """ATSS by its rules, one anchor and one box at a time: box of each positive anchor."""
    best: dict[int, tuple[float, int]] = {}
    for number, box in enumerate(boxes.tolist()):
        center = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        candidates: list[int] = []
        start = 0
        for count in NUM_ANCHORS:
            level = [index for index in range(start, start + count) if valid[index]]
            points = {i: ((anchors[i, 0] + anchors[i, 2]) / 2, (anchors[i, 1] + anchors[i, 3]) / 2) for i in level}
            candidates += sorted(level, key=lambda i: math.dist(points[i], center))[:topk]
            start += count
        ious = [_iou(anchors[index].tolist(), box) for index in candidates]
        threshold = statistics.mean(ious) + statistics.stdev(ious)
        for index, iou in zip(candidates, ious, strict=True):
            x, y = ((anchors[index, :2] + anchors[index, 2:]) / 2).tolist()
            inside = min(x - box[0], y - box[1], box[2] - x, box[3] - y) > 0.01
            if iou >= threshold and inside and iou > best.get(index, (-1.0, 0))[0]:
                best[index] = (iou, number)
    return {index: number for index, (_, number) in best.items()}


@pytest.mark.parametrize("topk", [1, 9])
@pytest.mark.parametrize("seed", range(4))
def test_assignment_equals_a_naive_reference(seed: int, topk: int) -> None:
    boxes, anchors = _random_boxes(6, seed=seed), _anchors()
    generator = torch.Generator().manual_seed(seed)
    points = (anchors[:, :2] + anchors[:, 2:]) / 2
    valid = (points < torch.tensor([128.0, 40.0 + 80 * torch.rand(1, generator=generator)])).all(1)

    for mask in (None, valid):
        found = assign(boxes, anchors, num_anchors=NUM_ANCHORS, valid=mask, topk=topk)
        wanted = _reference(boxes, anchors, valid if mask is not None else torch.ones(len(anchors)), topk=topk)
        assert dict(zip(found.anchors.tolist(), found.boxes.tolist(), strict=True)) == wanted
        assert found.anchors.tolist() == sorted(wanted)
    assert wanted, "an assignment without positives would prove nothing"


def test_assignment_by_hand() -> None:
    anchors = torch.tensor([[0.0, 0, 8, 8], [8, 0, 16, 8], [0, 8, 8, 16], [8, 8, 16, 16]])

    # IoUs 1, 0, 0, 0: the threshold is 0.25 + 0.5.
    found = assign(torch.tensor([[0.0, 0, 8, 8]]), anchors, num_anchors=[4])

    assert (found.anchors.tolist(), found.boxes.tolist()) == ([0], [0])


def test_a_contested_anchor_goes_to_the_higher_iou() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [90, 90, 100, 100], [90, 0, 100, 10]])
    boxes = torch.tensor([[0.0, 0, 10, 14], [0, 0, 10, 11]])

    for order in ([0, 1], [1, 0]):
        found = assign(boxes[order], anchors, num_anchors=[3])
        assert (found.anchors.tolist(), found.boxes.tolist()) == ([0], [order.index(1)])


def test_an_anchor_whose_centre_is_outside_is_not_positive() -> None:
    # The best anchor of all overlaps the box by 3/7, but its centre (5, 5) lies on the box's side.
    anchors = torch.tensor([[0.0, 0, 10, 10], [90, 90, 100, 100], [90, 0, 100, 10]])

    assert assign(torch.tensor([[5.0, 0, 12, 10]]), anchors, num_anchors=[3]).anchors.tolist() == []
    assert assign(torch.tensor([[4.9, 0, 12, 10]]), anchors, num_anchors=[3]).anchors.tolist() == [0]


def test_no_boxes_no_positives() -> None:
    found = assign(torch.zeros(0, 4), _anchors().float(), num_anchors=NUM_ANCHORS)

    assert found.anchors.tolist() == found.boxes.tolist() == []
    assert found.anchors.dtype == found.boxes.dtype == torch.long


def test_anchors_on_padding_are_never_assigned_and_never_counted() -> None:
    anchors, boxes = _anchors(), _random_boxes(5, seed=7)
    valid = torch.zeros(len(anchors), dtype=torch.bool)
    valid[::3] = True

    masked = assign(boxes, anchors, num_anchors=NUM_ANCHORS, valid=valid)
    level_counts = [int(level.sum()) for level in valid.split(NUM_ANCHORS)]
    alone = assign(boxes, anchors[valid], num_anchors=level_counts)

    assert masked.anchors.tolist() == valid.nonzero().squeeze(1)[alone.anchors].tolist()
    assert masked.boxes.tolist() == alone.boxes.tolist()
    assert len(masked.anchors)


def test_identical_boxes_share_no_anchor() -> None:
    anchors, box = _anchors(), _random_boxes(1, seed=3)
    once = assign(box, anchors, num_anchors=NUM_ANCHORS)
    twice = assign(box.repeat(2, 1), anchors, num_anchors=NUM_ANCHORS)

    assert twice.anchors.tolist() == once.anchors.tolist() != []


def test_a_zero_area_box_takes_nothing_from_the_others() -> None:
    anchors, boxes = _anchors(), _random_boxes(3, seed=5)
    empty = torch.tensor([[50.0, 50, 50, 50], [20, 30, 60, 30]], dtype=torch.float64)

    with_empty = assign(torch.cat([boxes, empty]), anchors, num_anchors=NUM_ANCHORS)

    assert with_empty.anchors.tolist() == assign(boxes, anchors, num_anchors=NUM_ANCHORS).anchors.tolist()
    assert set(with_empty.boxes.tolist()) <= {0, 1, 2}


@pytest.mark.parametrize("chunk", [1, 2, 7])
def test_boxes_taken_in_chunks_are_assigned_as_all_at_once(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    anchors, boxes = _anchors(), _random_boxes(20, seed=11)
    boxes = torch.cat([boxes, boxes[3:9], boxes[5:6].expand(4, 4)])  # duplicates in several chunks
    whole = assign(boxes, anchors, num_anchors=NUM_ANCHORS)

    monkeypatch.setattr(atss, "MAX_DISTANCES", chunk * len(anchors))
    chunked = assign(boxes, anchors, num_anchors=NUM_ANCHORS)

    assert chunked.anchors.tolist() == whole.anchors.tolist() != []
    assert chunked.boxes.tolist() == whole.boxes.tolist()
    wanted = _reference(boxes, anchors, torch.ones(len(anchors)), topk=9)
    assert dict(zip(chunked.anchors.tolist(), chunked.boxes.tolist(), strict=True)) == wanted


class _Largest(TorchDispatchMode):
    """Remembers the largest tensor that is made, in elements."""

    num_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.num_elements = max(self.num_elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


def test_a_hundred_thousand_boxes_take_bounded_memory() -> None:
    sizes = [(40, 40), (20, 20), (10, 10), (5, 5), (3, 3)]  # of a 320 px image
    anchors, num_anchors = make_anchors(sizes, STRIDES, scale=8.0, device=torch.device("cpu")), [1600, 400, 100, 25, 9]
    one = torch.tensor([[60.0, 60, 130, 140]])
    boxes = torch.cat([one, _random_boxes(50_000, seed=0).float(), one.expand(49_999, 4)])

    with _Largest() as largest:
        found = assign(boxes, anchors, num_anchors=num_anchors)

    assert largest.num_elements <= atss.MAX_DISTANCES < len(boxes) * len(anchors) / 20
    alone = assign(boxes[:50_001], anchors, num_anchors=num_anchors)
    assert found.anchors.tolist() == alone.anchors.tolist()
    assert found.boxes.tolist() == alone.boxes.tolist()
    assert 0 in found.boxes
    assert int(found.boxes.max()) <= 50_000


def test_of_identical_boxes_the_first_wins() -> None:
    anchors, boxes = _anchors(), _random_boxes(3, seed=3)

    alone = assign(boxes[[2, 0, 1]], anchors, num_anchors=NUM_ANCHORS)
    found = assign(boxes[[2, 0, 2, 1, 0, 1, 2]], anchors, num_anchors=NUM_ANCHORS)

    assert found.anchors.tolist() == alone.anchors.tolist()
    assert found.boxes.tolist() == torch.tensor([0, 1, 3])[alone.boxes].tolist()
    assert len(alone.boxes.unique()) > 1


@pytest.mark.parametrize("box", [[50.0, 50, 50, 50], [20, 30, 60, 30], [64, 64, 64, 80], [0, 0, 0, 128]])
def test_boxes_without_area_are_never_positive(box: list[float]) -> None:
    found = assign(torch.tensor([box] * 3), _anchors().float(), num_anchors=NUM_ANCHORS)

    assert found.anchors.tolist() == []


def test_a_box_outside_the_image_has_no_anchor_and_takes_none() -> None:
    anchors, boxes = _anchors(), _random_boxes(3, seed=5)
    outside = torch.tensor([[500.0, 20, 560, 90], [-90, -90, -20, -30]], dtype=torch.float64)

    found = assign(torch.cat([outside, boxes]), anchors, num_anchors=NUM_ANCHORS)
    alone = assign(boxes, anchors, num_anchors=NUM_ANCHORS)

    assert found.anchors.tolist() == alone.anchors.tolist() != []
    assert found.boxes.tolist() == (alone.boxes + 2).tolist()


def test_an_image_without_valid_anchors() -> None:
    valid = torch.zeros(sum(NUM_ANCHORS), dtype=torch.bool)

    assert assign(_random_boxes(2, seed=0), _anchors(), num_anchors=NUM_ANCHORS, valid=valid).anchors.tolist() == []


def test_centerness_by_hand() -> None:
    anchors = torch.tensor([[0.0, 0, 8, 8], [4, 0, 12, 8], [2, 2, 4, 4]])
    boxes = torch.tensor([[0.0, 0, 16, 8], [0, 0, 16, 8], [2, 0, 6, 8]])

    # Distances left, top, right, bottom: (4, 4, 12, 4), (8, 4, 8, 4), (1, 3, 3, 5).
    wanted = [math.sqrt(4 / 12), 1.0, math.sqrt(1 / 3 * 3 / 5)]
    assert centerness_target(anchors, boxes).tolist() == pytest.approx(wanted)
    assert centerness_target(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)
