"""Training targets of a batch with boxes, and the normalisers of its losses.

Shapes: B images, K anchors, P positive anchors over the images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detclipv2.boxes.atss import assign, centerness_target
from detclipv2.distributed import mean_over_ranks
from detclipv2.models.anchors import valid_anchors
from detclipv2.structures import Batch


@dataclass(frozen=True, kw_only=True)
class BoxTargets:
    """Positive anchors of some images, image after image, and the normalisers of the whole global batch."""

    images: Tensor  # [P]
    anchors: Tensor  # [P]
    concepts: Tensor  # [P], row of the global batch's concepts
    boxes_xyxy: Tensor  # [P, 4]
    num_positives: Tensor  # [], mean over ranks
    # None where the boxes are too inaccurate to be learnt, which is in grounding.
    centerness: Tensor | None  # [P]
    centerness_sum: Tensor  # [], mean over ranks; 0 where there is none

    def of_images(self, images: range) -> "BoxTargets":
        """Those of consecutive images, counted from the first of them; the normalisers stay."""
        kept = (self.images >= images.start) & (self.images < images.stop)
        return BoxTargets(
            images=self.images[kept] - images.start,
            anchors=self.anchors[kept],
            concepts=self.concepts[kept],
            boxes_xyxy=self.boxes_xyxy[kept],
            num_positives=self.num_positives,
            centerness=None if self.centerness is None else self.centerness[kept],
            centerness_sum=self.centerness_sum,
        )


def box_targets(
    batch: Batch, concepts: Sequence[Sequence[int]], *, anchors_xyxy: Tensor, num_anchors: list[int], topk: int
) -> BoxTargets:
    """Targets of a batch; each process calls it. They do not depend on what the network says, only on its anchors.

    Args:
        batch: of detection or grounding.
        concepts: of each image, as rows of the global batch's concepts.
        anchors_xyxy: [K, 4], of all levels.
        num_anchors: of each level.
        topk: candidates of ATSS a level.
    """
    device = anchors_xyxy.device
    images, anchors, rows, boxes = [], [], [], []
    valid = valid_anchors(anchors_xyxy, batch.image_sizes_hw)
    for image, (gt_boxes, labels) in enumerate(zip(batch.boxes_xyxy, batch.labels, strict=True)):
        found = assign(gt_boxes, anchors_xyxy, num_anchors=num_anchors, valid=valid[image], topk=topk)
        own = torch.tensor(concepts[image], dtype=torch.long, device=device)
        images.append(torch.full_like(found.anchors, image))
        anchors.append(found.anchors)
        rows.append(own[labels[found.boxes]])
        boxes.append(gt_boxes[found.boxes])
    positive, matched = torch.cat(anchors), torch.cat(boxes)
    num_positives = mean_over_ranks(torch.tensor(float(len(positive)), device=device))
    exact = batch.supervision == "detection"
    centerness = centerness_target(anchors_xyxy[positive], matched) if exact else None
    return BoxTargets(
        images=torch.cat(images),
        anchors=positive,
        concepts=torch.cat(rows),
        boxes_xyxy=matched,
        num_positives=num_positives,
        centerness=centerness,
        centerness_sum=torch.zeros_like(num_positives) if centerness is None else mean_over_ranks(centerness.sum()),
    )
