import torch
from torchvision.ops import box_iou

from detclipv2.boxes.iou import paired_iou


def test_the_diagonal_of_all_pairs() -> None:
    corners = torch.rand(50, 2, 2, generator=torch.Generator().manual_seed(0))
    boxes, others = (torch.cat([part, part + 0.3], dim=-1) for part in corners.unbind(1))

    torch.testing.assert_close(paired_iou(boxes, others), box_iou(boxes, others).diagonal())


def test_empty_boxes_overlap_nothing() -> None:
    empty = torch.tensor([[3.0, 3, 3, 3]])

    assert paired_iou(empty, empty).tolist() == [0.0]
