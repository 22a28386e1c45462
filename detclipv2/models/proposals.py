"""Regions that stand for a picture in the word-region contrastive loss (section 3.3 of arXiv:2304.04514)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from detclipv2.boxes.coder import decode
from detclipv2.structures import HeadOutput


@dataclass(frozen=True, kw_only=True)
class Proposals:
    """The ``k`` best regions of each image; images with fewer are padded."""

    embeddings: Tensor  # [B, k, D], with gradient
    mask: Tensor  # [B, k] bool, False on padding


def select_proposals(output: HeadOutput, texts: Tensor, *, num_proposals: int, nms_iou: float) -> Proposals:
    """Proposals by batch-wise text similarity, the paper's best (Table 2).

    The objectness of a region is its highest similarity to any concept [M, D] of this process's batch; class-agnostic
    non-maximum suppression and the top k follow. Selection carries no gradient, the selected embeddings do.
    """
    with torch.no_grad():
        objectness = (output.embeddings @ texts.T).amax(-1)  # [B, K]
        boxes = decode(output.box_deltas, output.anchors_xyxy)  # [B, K, 4]
        num_images, num_anchors = objectness.shape
        image_index = torch.arange(num_images, device=boxes.device).repeat_interleave(num_anchors)
        flat = objectness.flatten()
        candidates = output.valid.flatten().nonzero().squeeze(1)
        kept = candidates[
            batched_nms(boxes.flatten(0, 1)[candidates], flat[candidates], image_index[candidates], nms_iou)
        ]
        index = torch.zeros(num_images, num_proposals, dtype=torch.long, device=boxes.device)
        mask = torch.zeros(num_images, num_proposals, dtype=torch.bool, device=boxes.device)
        for image in range(num_images):
            best = kept[image_index[kept] == image][:num_proposals] % num_anchors  # kept is sorted by objectness
            index[image, : len(best)] = best
            mask[image, : len(best)] = True
    rows = torch.arange(num_images, device=boxes.device)[:, None]
    return Proposals(embeddings=output.embeddings[rows, index], mask=mask)
