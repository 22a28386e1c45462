import math

import pytest
import torch
from torchvision.ops import box_iou

from detclipv2.losses.box import box_loss, centerness_loss, foreground_loss, paired_iou

# Halves overlap: IoU 1/3. Apart: IoU 0, and the hull of 30 x 10 is 1/3 empty.
BOXES = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]])
TARGETS = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 0, 30, 10]])
GIOU_LOSSES = [0.0, 1 - 1 / 3, 1 + 1 / 3]


def test_box_loss_is_weighted_by_centerness() -> None:
    loss = box_loss(BOXES, TARGETS, centerness=torch.tensor([0.9, 0.5, 0.25]), centerness_sum=torch.tensor(1.65))

    assert float(loss) == pytest.approx((0.5 * GIOU_LOSSES[1] + 0.25 * GIOU_LOSSES[2]) / 1.65, rel=1e-5)


def test_box_loss_is_divided_by_one_at_least() -> None:
    loss = box_loss(BOXES[1:2], TARGETS[1:2], centerness=torch.tensor([0.5]), centerness_sum=torch.tensor(0.5))

    assert float(loss) == pytest.approx(0.5 * GIOU_LOSSES[1], rel=1e-5)


def test_centerness_loss_by_hand() -> None:
    loss = centerness_loss(torch.tensor([0.0, 2.0]), torch.tensor([0.3, 1.0]), num_positives=torch.tensor(4.0))

    assert float(loss) == pytest.approx((math.log(2) + math.log(1 + math.exp(-2))) / 4, rel=1e-6)


def test_no_positives_no_loss_but_a_gradient_of_zero() -> None:
    boxes, logits = torch.zeros(0, 4, requires_grad=True), torch.zeros(0, requires_grad=True)
    zero = torch.tensor(0.0)

    total = box_loss(boxes, boxes.detach(), centerness=torch.zeros(0), centerness_sum=zero)
    total = total + centerness_loss(logits, torch.zeros(0), num_positives=zero)
    total.backward()

    assert float(total.detach()) == 0.0
    assert boxes.grad is not None
    assert logits.grad is not None


def test_foreground_loss_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0, 9.0]])
    positives, valid = torch.tensor([[True, False, False]]), torch.tensor([[True, True, False]])

    loss = foreground_loss(logits, positives, valid=valid, num_positives=torch.tensor(2.0))

    # At p = 1/2 a positive costs 1/4 (1/2)^2 ln 2, a negative 3/4 of the same; the third anchor is padding.
    assert float(loss) == pytest.approx((0.25 + 0.75) * 0.25 * math.log(2) / 2, rel=1e-6)


def test_the_diagonal_of_all_pairs() -> None:
    corners = torch.rand(50, 2, 2, generator=torch.Generator().manual_seed(0))
    boxes, others = (torch.cat([part, part + 0.3], dim=-1) for part in corners.unbind(1))

    torch.testing.assert_close(paired_iou(boxes, others), box_iou(boxes, others).diagonal())


def test_empty_boxes_overlap_nothing() -> None:
    empty = torch.tensor([[3.0, 3, 3, 3]])

    assert paired_iou(empty, empty).tolist() == [0.0]
