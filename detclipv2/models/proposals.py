"""Region proposals for the word-region contrastive loss (section 3.2 of arXiv:2304.04514).

Shapes: B images, K anchors, M texts, D width, k proposals of an image.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from detclipv2.boxes.coder import decode
from detclipv2.structures import HeadOutput

ProposalScore = Literal["text_batch", "text_sample", "text_batch_centerness", "centerness", "foreground", "iou"]
_CHUNK_ELEMENTS = 2**24  # region-text similarities held at a time


@dataclass(frozen=True, kw_only=True)
class Proposals:
    """The ``k`` best regions of each image; images with fewer are padded."""

    embeddings: Tensor  # [B, k, D], with gradient
    boxes_xyxy: Tensor  # [B, k, 4], without gradient
    mask: Tensor  # [B, k] bool, False on padding
    anchors: Tensor  # [B, k], which regions of the head's output they are; any on padding


@torch.no_grad()
def region_scores(
    output: HeadOutput,
    texts: Tensor,
    concepts: Sequence[Sequence[int]],
    *,
    score: ProposalScore,
    pool: Collection[int] | None = None,
) -> Tensor:
    """What chooses the regions of image-text pairs [B, K]: one of the six of Table 2a.

    Args:
        output: of the detector.
        texts: embeddings [M, D].
        concepts: for each image the rows of ``texts`` that are its own.
        score: "text_batch" is the highest similarity to any concept of the process's batch, the paper's best; "text_sample" to
            any of the image's own; "text_batch_centerness" is the first times the centerness; the others are class-agnostic.
        pool: rows of the concepts of this process's batch; None where the batch has no other images than these.

    Raises:
        ValueError: the score needs an objectness that the head does not have.
    """
    if score in ("foreground", "iou"):
        if output.objectness is None:
            raise ValueError(f"proposal_score {score!r} needs a head that predicts it: set model.objectness")
        return output.objectness.sigmoid()
    if score == "centerness":
        return output.centerness.sigmoid()
    if score == "text_sample":
        best = [
            _best_similarity(regions, texts[list(own)])
            for regions, own in zip(output.embeddings, concepts, strict=True)
        ]
        return torch.stack(best)
    rows = {text for own in concepts for text in own} if pool is None else set(pool)
    everyone = torch.tensor(sorted(rows), device=texts.device)
    similarity = _best_similarity(output.embeddings.flatten(0, 1), texts[everyone]).view(output.centerness.shape)
    return similarity if score == "text_batch" else similarity.sigmoid() * output.centerness.sigmoid()


def _best_similarity(regions: Tensor, texts: Tensor) -> Tensor:
    """Highest dot product [N] of each region [N, D] with any text [M, D], some rows at a time."""
    rows = max(1, _CHUNK_ELEMENTS // max(1, len(texts)))
    return torch.cat([(part @ texts.T).amax(-1) for part in regions.split(rows)])


def select_proposals(output: HeadOutput, scores: Tensor, *, num_proposals: int, nms_iou: float) -> Proposals:
    """The regions with the best scores [B, K], after class-agnostic non-maximum suppression within each image.

    Selection carries no gradient, the selected embeddings do. Anchors on padding are never selected.
    """
    with torch.no_grad():
        boxes = decode(output.box_deltas, output.anchors_xyxy)  # [B, K, 4]
        num_images, num_anchors = scores.shape
        images = torch.arange(num_images, device=boxes.device).repeat_interleave(num_anchors)
        candidates = output.valid.flatten().nonzero().squeeze(1)
        kept = batched_nms(
            boxes.flatten(0, 1)[candidates], scores.flatten()[candidates], images[candidates], nms_iou
        )  # best first
        kept = candidates[kept]
        kept = kept[images[kept].argsort(stable=True)]  # image after image, best first
        counts = torch.bincount(images[kept], minlength=num_images)
        place = torch.arange(len(kept), device=boxes.device) - (counts.cumsum(0) - counts)[images[kept]]
        kept, place = kept[place < num_proposals], place[place < num_proposals]
        index = torch.zeros(num_images, num_proposals, dtype=torch.long, device=boxes.device)
        index[images[kept], place] = kept % num_anchors
        mask = torch.zeros_like(index, dtype=torch.bool)
        mask[images[kept], place] = True
    rows = torch.arange(num_images, device=boxes.device)[:, None]
    return Proposals(embeddings=output.embeddings[rows, index], boxes_xyxy=boxes[rows, index], mask=mask, anchors=index)


def largest_proposal(proposals: Proposals) -> Proposals:
    """The largest of each image's proposals alone (row 1 of Table 2b)."""
    sides = proposals.boxes_xyxy[..., 2:] - proposals.boxes_xyxy[..., :2]
    index = sides.prod(-1).masked_fill(~proposals.mask, -1.0).argmax(-1, keepdim=True)  # [B, 1]
    rows = torch.arange(len(index), device=index.device)[:, None]
    return Proposals(
        embeddings=proposals.embeddings[rows, index],
        boxes_xyxy=proposals.boxes_xyxy[rows, index],
        mask=proposals.mask[rows, index],
        anchors=proposals.anchors[rows, index],
    )
