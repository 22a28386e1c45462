"""From the head's output to detections, by ATSS's test-time rules.

Shapes: B images, K anchors, M names.
"""

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image, nms

from detclipv2.boxes.coder import decode
from detclipv2.structures import Detections, HeadOutput

PRE_NMS_TOPK = 1000  # (region, name) pairs of an image that enter suppression, a level


def postprocess(
    output: HeadOutput,
    logits: Tensor,
    *,
    image_sizes_hw: list[tuple[int, int]],
    score_threshold: float = 0.0,
    nms_iou: float = 0.6,
    max_detections: int = 300,
) -> list[Detections]:
    """Detections of each image, in pixels of the (resized) picture.

    Score = sigmoid(S) * sigmoid(centerness); suppression runs per name, so a score never depends on other names.

    Args:
        output: of the detector.
        logits: region-text logits [B, K, M].
        image_sizes_hw: boxes are clipped to these.
        score_threshold: lowest score that is kept.
        nms_iou: overlap above which the weaker of two boxes of one name goes.
        max_detections: kept an image.
    """
    scores = logits.float().sigmoid() * output.centerness.float().sigmoid()[..., None]
    scores = scores.masked_fill(~output.valid[..., None], -1.0)
    boxes = decode(output.box_deltas, output.anchors_xyxy)
    return [
        _one_image(
            boxes[image],
            scores[image],
            num_anchors=output.num_anchors,
            size_hw=size_hw,
            score_threshold=score_threshold,
            nms_iou=nms_iou,
            max_detections=max_detections,
        )
        for image, size_hw in enumerate(image_sizes_hw)
    ]


def _one_image(
    boxes_xyxy: Tensor,
    scores: Tensor,
    *,
    num_anchors: list[int],
    size_hw: tuple[int, int],
    score_threshold: float,
    nms_iou: float,
    max_detections: int,
) -> Detections:
    num_names = scores.shape[1]
    picked, start = [], 0
    for count in num_anchors:
        level = scores[start : start + count].flatten()
        picked.append(level.topk(min(PRE_NMS_TOPK, len(level))).indices + start * num_names)
        start += count
    index = torch.cat(picked)
    anchors, labels = index // num_names, index % num_names
    kept_scores = scores[anchors, labels]
    kept_boxes = clip_boxes_to_image(boxes_xyxy[anchors], size_hw)
    sizes = kept_boxes[:, 2:] - kept_boxes[:, :2]
    keep = (kept_scores > max(score_threshold, 0.0)) & (sizes.amin(-1) > 0)
    kept_boxes, kept_scores, labels = kept_boxes[keep], kept_scores[keep], labels[keep]
    best = batched_nms(kept_boxes, kept_scores, labels, nms_iou)[:max_detections]
    return Detections(boxes_xyxy=kept_boxes[best], scores=kept_scores[best], labels=labels[best])


def one_name_each(detections: Detections, *, nms_iou: float = 0.5) -> Detections:
    """The same detections with the best name alone for every object: what a person wants to see, not what AP measures."""
    keep = nms(detections.boxes_xyxy, detections.scores, nms_iou)
    return Detections(
        boxes_xyxy=detections.boxes_xyxy[keep], scores=detections.scores[keep], labels=detections.labels[keep]
    )
