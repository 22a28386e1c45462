"""The joint objective of Eq. 6 of arXiv:2304.04514: each batch has one supervision type, and each type its losses.

Shapes: B images, K anchors, M_B distinct concepts of the global batch, P positive anchors over the images, D width.
"""

import torch
from torch import Tensor, nn

from detclipv2.boxes.coder import decode
from detclipv2.config import LossConfig
from detclipv2.losses.alignment import alignment_loss
from detclipv2.losses.box import box_loss, centerness_loss, foreground_loss, paired_iou
from detclipv2.losses.contrastive import word_region_loss
from detclipv2.losses.pool import ConceptPool, concept_pool
from detclipv2.losses.targets import BoxTargets, box_targets
from detclipv2.models.detector import DetCLIPv2
from detclipv2.models.proposals import Proposals, largest_proposal, region_scores, select_proposals
from detclipv2.structures import Batch, HeadOutput


class HybridObjective(nn.Module):
    """A detector and the losses that train it; what distributed data parallelism wraps.

    ``forward`` takes a batch through all of it at once. ``training/accumulation.py`` calls the pieces one by one.

    Raises:
        ValueError: the losses want what the head does not predict, or the caption that the concepts leave out.
    """

    def __init__(self, detector: DetCLIPv2, config: LossConfig) -> None:
        super().__init__()
        if config.proposal_score in ("foreground", "iou") and not detector.head.has_objectness:
            raise ValueError(f"loss.proposal_score {config.proposal_score!r} needs model.objectness")
        if config.matching == "max_box" and not config.caption_as_concept:
            raise ValueError("loss.matching 'max_box' compares captions: it needs loss.caption_as_concept")
        self.detector = detector
        self.config = config

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted losses by name; their sum is what to minimise."""
        output = self.detector(batch.pixels, batch.image_sizes_hw)
        with torch.autocast(batch.pixels.device.type, enabled=False):
            pool = concept_pool(batch)
            texts = pool.gathered(self.detector.text_encoder(pool.mine))
            if batch.supervision == "image_text":
                return self.image_text_losses(self.proposals(output, texts, pool), texts, pool)
            return self.boxed_losses(output, texts, self.targets(batch, output, pool))

    def targets(self, batch: Batch, output: HeadOutput, pool: ConceptPool) -> BoxTargets:
        """Targets of a boxed batch, and its normalisers over all ranks; of ``output`` only the anchors are looked at."""
        return box_targets(
            batch,
            pool.own,
            anchors_xyxy=output.anchors_xyxy,
            num_anchors=output.num_anchors,
            topk=self.config.assignment_topk,
        )

    def boxed_losses(self, output: HeadOutput, texts: Tensor, targets: BoxTargets) -> dict[str, Tensor]:
        """Detection: alignment, box and centerness losses. Grounding: alignment alone, its boxes being inaccurate.

        Args:
            output: of the images that the targets are of.
            texts: [M_B, D].
            targets: of a whole batch or of some of its images; the losses of the parts of a batch add up to those of the whole.
        """
        losses = {
            "align": alignment_loss(
                output.embeddings,
                texts,
                self.detector.head.logit_bias,
                image_index=targets.images,
                anchor_index=targets.anchors,
                concept_index=targets.concepts,
                valid=output.valid,
                num_positives=targets.num_positives,
                alpha=self.config.focal_alpha,
                gamma=self.config.focal_gamma,
            )
        }
        if targets.centerness is not None:
            losses |= self._localisation(output, targets, targets.centerness)
        return losses

    def _localisation(self, output: HeadOutput, targets: BoxTargets, centerness: Tensor) -> dict[str, Tensor]:
        config, at, num_positives = self.config, (targets.images, targets.anchors), targets.num_positives
        boxes = decode(output.box_deltas[at], output.anchors_xyxy[targets.anchors])
        losses = {
            "box": config.box_weight
            * box_loss(boxes, targets.boxes_xyxy, centerness=centerness, centerness_sum=targets.centerness_sum),
            "centerness": config.centerness_weight
            * centerness_loss(output.centerness[at], centerness, num_positives=num_positives),
        }
        if output.objectness is not None and config.proposal_score == "foreground":
            is_positive = torch.zeros_like(output.valid).index_put(at, torch.ones_like(output.valid[at]))
            losses["objectness"] = foreground_loss(
                output.objectness, is_positive, valid=output.valid, num_positives=num_positives
            )
        elif output.objectness is not None and config.proposal_score == "iou":
            ious = paired_iou(boxes.detach(), targets.boxes_xyxy)
            losses["objectness"] = centerness_loss(output.objectness[at], ious, num_positives=num_positives)
        return losses

    def proposals(
        self, output: HeadOutput, texts: Tensor, pool: ConceptPool, *, images: slice = slice(None)
    ) -> Proposals:
        """Proposals of image-text pairs.

        Args:
            output: of the images.
            texts: [M_B, D].
            pool: concepts of the whole batch: a region is scored against all of the process's pairs.
            images: which of the process's images ``output`` is of.
        """
        config = self.config
        scores = region_scores(output, texts, pool.own[images], score=config.proposal_score, pool=pool.local)
        chosen = select_proposals(output, scores, num_proposals=config.num_proposals, nms_iou=config.proposal_nms_iou)
        return largest_proposal(chosen) if config.matching == "max_box" else chosen

    def image_text_losses(self, proposals: Proposals, texts: Tensor, pool: ConceptPool) -> dict[str, Tensor]:
        """The contrastive loss of all of this process's pairs against the global batch; each process calls it."""
        config = self.config
        loss = word_region_loss(
            texts,
            proposals.embeddings,
            proposals.mask,
            [concepts[-1:] for concepts in pool.everyone] if config.matching == "max_box" else pool.everyone,
            matching="soft" if config.matching == "soft" else "hard",
            direction=config.direction,
            soft_temperature=config.soft_temperature,
            temperature=config.temperature,
            label_smoothing=config.label_smoothing,
        )
        return {"contrastive": config.contrastive_weight * loss}
