"""The joint objective of Eq. 6 of arXiv:2304.04514: each batch has one supervision type, and each type its losses.

Shapes: B images, K anchors, M_B distinct concepts of the global batch, P positive anchors over the images, D width.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detclipv2.boxes.atss import assign, centerness_target
from detclipv2.boxes.coder import decode
from detclipv2.boxes.iou import paired_iou
from detclipv2.config import LossConfig
from detclipv2.distributed import gather_objects, gather_with_grad, mean_over_ranks, rank, world_size
from detclipv2.losses.alignment import alignment_loss
from detclipv2.losses.box import box_loss, centerness_loss, foreground_loss
from detclipv2.losses.contrastive import word_region_loss
from detclipv2.models.detector import DetCLIPv2
from detclipv2.models.proposals import largest_proposal, region_scores, select_proposals
from detclipv2.structures import Batch, HeadOutput


@dataclass(frozen=True, kw_only=True)
class _Positives:
    """Positive anchors of a batch, image after image."""

    images: Tensor  # [P]
    anchors: Tensor  # [P]
    concepts: Tensor  # [P], index into the global concepts
    boxes_xyxy: Tensor  # [P, 4]


class HybridObjective(nn.Module):
    """A detector and the losses that train it; what distributed data parallelism wraps.

    Raises:
        ValueError: the losses want what the head does not predict, or the caption that the concepts leave out.
    """

    def __init__(self, detector: DetCLIPv2, config: LossConfig) -> None:
        super().__init__()
        if config.proposal_score in ("foreground", "iou") and not detector.head.has_objectness:
            raise ValueError(f"loss.proposal_score {config.proposal_score!r} needs model.objectness 'on'")
        if config.matching == "max_box" and config.caption_as_concept == "off":
            raise ValueError("loss.matching 'max_box' compares captions: it needs loss.caption_as_concept 'on'")
        self.detector = detector
        self.config = config

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted losses by name; their sum is what to minimise."""
        output = self.detector(batch.pixels, batch.image_sizes_hw)
        with torch.autocast(batch.pixels.device.type, enabled=False):
            if batch.supervision == "image_text":
                return self._image_text(batch, output)
            return self._boxed(batch, output)

    def _global_texts(self, concepts: list[list[str]]) -> tuple[list[list[list[str]]], dict[str, int], Tensor]:
        """Concepts of all ranks, the index of each distinct one, and the embeddings [M_B, D] of these.

        Each rank encodes its share of the distinct texts, and all gather the result.
        """
        everyone = gather_objects(concepts)
        texts = sorted({text for images in everyone for image in images for text in image})
        if not texts:
            raise ValueError("a batch without any concept: every sample needs a category, a phrase or a caption")
        share = math.ceil(len(texts) / world_size())
        padded = texts + [texts[-1]] * (share * world_size() - len(texts))
        mine = padded[rank() * share : (rank() + 1) * share]
        embeddings = gather_with_grad(self.detector.text_encoder(mine))[: len(texts)]
        return everyone, {text: index for index, text in enumerate(texts)}, embeddings

    def _positives(self, batch: Batch, output: HeadOutput, index: dict[str, int]) -> _Positives:
        images, anchors, concepts, boxes = [], [], [], []
        for image, (gt_boxes, labels) in enumerate(zip(batch.boxes_xyxy, batch.labels, strict=True)):
            assignment = assign(
                gt_boxes,
                output.anchors_xyxy,
                num_anchors=output.num_anchors,
                valid=output.valid[image],
                topk=self.config.assignment_topk,
            )
            to_global = torch.tensor(
                [index[text] for text in batch.concepts[image]], dtype=torch.long, device=labels.device
            )
            images.append(torch.full_like(assignment.anchors, image))
            anchors.append(assignment.anchors)
            concepts.append(to_global[labels[assignment.boxes]])
            boxes.append(gt_boxes[assignment.boxes])
        return _Positives(
            images=torch.cat(images),
            anchors=torch.cat(anchors),
            concepts=torch.cat(concepts),
            boxes_xyxy=torch.cat(boxes),
        )

    def _boxed(self, batch: Batch, output: HeadOutput) -> dict[str, Tensor]:
        """Detection: alignment, box and centerness losses. Grounding: alignment alone, its boxes being inaccurate."""
        config = self.config
        _, index, texts = self._global_texts(batch.concepts)
        positives = self._positives(batch, output, index)
        num_positives = mean_over_ranks(torch.tensor(float(len(positives.images)), device=texts.device))
        losses = {
            "align": alignment_loss(
                output.embeddings,
                texts,
                self.detector.head.logit_bias,
                image_index=positives.images,
                anchor_index=positives.anchors,
                concept_index=positives.concepts,
                valid=output.valid,
                num_positives=num_positives,
                alpha=config.focal_alpha,
                gamma=config.focal_gamma,
            )
        }
        if batch.supervision == "detection":
            losses |= self._localisation(output, positives, num_positives)
        return losses

    def _localisation(self, output: HeadOutput, positives: _Positives, num_positives: Tensor) -> dict[str, Tensor]:
        config, at = self.config, (positives.images, positives.anchors)
        anchors = output.anchors_xyxy[positives.anchors]
        boxes = decode(output.box_deltas[at], anchors)
        centerness = centerness_target(anchors, positives.boxes_xyxy)
        centerness_sum = mean_over_ranks(centerness.sum())
        losses = {
            "box": config.box_weight
            * box_loss(boxes, positives.boxes_xyxy, centerness=centerness, centerness_sum=centerness_sum),
            "centerness": config.centerness_weight
            * centerness_loss(output.centerness[at], centerness, num_positives=num_positives),
        }
        if output.objectness is not None and config.proposal_score == "foreground":
            is_positive = torch.zeros_like(output.valid).index_put(at, torch.ones_like(output.valid[at]))
            losses["objectness"] = foreground_loss(
                output.objectness, is_positive, valid=output.valid, num_positives=num_positives
            )
        elif output.objectness is not None and config.proposal_score == "iou":
            ious = paired_iou(boxes.detach(), positives.boxes_xyxy)
            losses["objectness"] = centerness_loss(output.objectness[at], ious, num_positives=num_positives)
        return losses

    def _image_text(self, batch: Batch, output: HeadOutput) -> dict[str, Tensor]:
        config = self.config
        wordless = [key for key, concepts in zip(batch.keys, batch.concepts, strict=True) if not concepts]
        if wordless:
            raise ValueError(
                f"image-text pairs {wordless} have no concept: a pair needs a phrase, or its caption as one"
            )
        everyone, index, texts = self._global_texts(batch.concepts)
        own = [[index[text] for text in image] for image in batch.concepts]
        scores = region_scores(output, texts, own, score=config.proposal_score)
        proposals = select_proposals(
            output, scores, num_proposals=config.num_proposals, nms_iou=config.proposal_nms_iou
        )
        captions = [[index[text] for text in image] for images in everyone for image in images]
        if config.matching == "max_box":
            proposals = largest_proposal(proposals)
            captions = [concepts[-1:] for concepts in captions]
        loss = word_region_loss(
            texts,
            proposals.embeddings,
            proposals.mask,
            captions,
            matching="soft" if config.matching == "soft" else "hard",
            direction=config.direction,
            soft_temperature=config.soft_temperature,
            temperature=config.temperature,
            label_smoothing=config.label_smoothing,
        )
        return {"contrastive": config.contrastive_weight * loss}
