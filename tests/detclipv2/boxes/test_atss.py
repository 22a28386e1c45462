import math
import statistics

import pytest
import torch
from torch import Tensor

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


def test_centerness_by_hand() -> None:
    anchors = torch.tensor([[0.0, 0, 8, 8], [4, 0, 12, 8], [2, 2, 4, 4]])
    boxes = torch.tensor([[0.0, 0, 16, 8], [0, 0, 16, 8], [2, 0, 6, 8]])

    # Distances left, top, right, bottom: (4, 4, 12, 4), (8, 4, 8, 4), (1, 3, 3, 5).
    wanted = [math.sqrt(4 / 12), 1.0, math.sqrt(1 / 3 * 3 / 5)]
    assert centerness_target(anchors, boxes).tolist() == pytest.approx(wanted)
    assert centerness_target(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)
