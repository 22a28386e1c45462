"""What passes between the parts of the detector.

Shapes: B images, K anchors of an image over all levels, D embedding width, N boxes of an image.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from detclipv2.config import Supervision


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Pictures of one supervision type with their texts."""

    supervision: Supervision
    keys: list[str]
    pixels: Tensor  # [B, 3, H, W] float in [0, 1], padded with zeros at the right and the bottom
    image_sizes_hw: list[tuple[int, int]]  # before padding
    boxes_xyxy: list[Tensor]  # B x [N, 4] in pixels
    labels: list[Tensor]  # B x [N], index into concepts of the image
    concepts: list[list[str]]  # B x M distinct texts: positives first, then negatives

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its tensors on ``device``."""
        return Batch(
            supervision=self.supervision,
            keys=self.keys,
            pixels=self.pixels.to(device, non_blocking=True),
            image_sizes_hw=self.image_sizes_hw,
            boxes_xyxy=[boxes.to(device) for boxes in self.boxes_xyxy],
            labels=[labels.to(device) for labels in self.labels],
            concepts=self.concepts,
        )


@dataclass(frozen=True, kw_only=True)
class HeadOutput:
    """What the head says of every anchor, levels concatenated from the finest to the coarsest."""

    embeddings: Tensor  # [B, K, D] region embeddings f^P
    box_deltas: Tensor  # [B, K, 4]
    centerness: Tensor  # [B, K] logits
    anchors_xyxy: Tensor  # [K, 4]
    num_anchors: list[int]  # of each level; sums to K
    valid: Tensor  # [B, K] bool: the anchor's centre lies on the picture, not on its padding


@dataclass(frozen=True, kw_only=True)
class Detections:
    """Detections of one image, best first."""

    boxes_xyxy: Tensor  # [N, 4] in pixels
    scores: Tensor  # [N] in 0..1
    labels: Tensor  # [N], index into the names that were asked for
