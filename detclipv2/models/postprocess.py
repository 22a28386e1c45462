"""Post-processing: from the head's output to detections, by ATSS's test-time rules.

Shapes: K anchors, M names, D embedding width, P pairs of an anchor and a name. A pair's number is anchor * M + name.
"""

from typing import TypedDict

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image, nms

from detclipv2.boxes.coder import decode
from detclipv2.structures import Detections, HeadOutput

PRE_NMS_TOPK = 1000  # pairs of an image that enter suppression, a level
# Scored at one time: 13,000 names on the 22,400 anchors of 1333 x 800 pixels make 291 million.
MAX_PAIRS = 2**21


class DetectionOptions(TypedDict, total=False):
    """What a caller may change of ``postprocess``; the defaults are its own."""

    score_threshold: float  # a score must be above it
    nms_iou: float  # overlap above which the weaker of two boxes of one name goes
    max_detections: int  # kept an image
    pre_nms_topk: int  # strongest pairs of a level that enter suppression


@torch.no_grad()
def postprocess(
    output: HeadOutput,
    texts: Tensor,
    *,
    logit_bias: Tensor | float,
    image_sizes_hw: list[tuple[int, int]],
    score_threshold: float = 0.0,
    nms_iou: float = 0.6,
    max_detections: int = 300,
    pre_nms_topk: int = PRE_NMS_TOPK,
    max_pairs: int = MAX_PAIRS,
) -> list[Detections]:
    """Detections of each image, in pixels of the (resized) image.

    Score = sigmoid(S) * sigmoid(centerness), with S = f^P . f^T + b. Suppression runs per name.

    The score of a pair depends on its region and its text alone: it is summed in float64, so that the order of summation,
    which a matrix product changes with its shape, is lost in rounding to float32. Which pairs are *found* is independent of
    the other names as long as neither ``pre_nms_topk`` nor ``max_detections`` binds. Where ``pre_nms_topk`` binds, a float32
    product decides; equal scores go by level, then anchor, then name, the first ones first.

    Args:
        output: of the detector.
        texts: text embeddings [M, D].
        logit_bias: b, one number.
        image_sizes_hw: boxes are clipped to these.
        score_threshold: a score must be above it.
        nms_iou: overlap above which the weaker of two boxes of one name goes.
        max_detections: kept an image.
        pre_nms_topk: strongest pairs of a level that enter suppression.
        max_pairs: scored at one time, which bounds the memory.
    """
    texts = texts.float()
    bias = torch.as_tensor(logit_bias, device=texts.device, dtype=torch.float32)
    boxes = decode(output.box_deltas, output.anchors_xyxy)
    found = []
    for image, size_hw in enumerate(image_sizes_hw):
        embeddings, centerness = output.embeddings[image].float(), output.centerness[image].float()
        picked, start = [], 0
        for count in output.num_anchors:
            anchors = output.valid[image, start : start + count].nonzero().squeeze(1) + start
            pairs = _strongest_pairs(
                embeddings[anchors], centerness[anchors], texts, bias=bias, topk=pre_nms_topk, max_pairs=max_pairs
            )
            picked.append(anchors[pairs // len(texts)] * len(texts) + pairs % len(texts))
            start += count
        pairs = torch.cat(picked)
        anchors, labels = pairs // len(texts), pairs % len(texts)
        similarity = (embeddings[anchors].double() * texts[labels].double()).sum(-1) + bias.double()
        scores = (similarity.sigmoid() * centerness[anchors].double().sigmoid()).float()
        clipped = clip_boxes_to_image(boxes[image, anchors], size_hw)
        keep = (scores > max(score_threshold, 0.0)) & ((clipped[:, 2:] - clipped[:, :2]).amin(-1) > 0)
        clipped, scores, labels = clipped[keep], scores[keep], labels[keep]
        best = _suppress(clipped, scores, labels, size_hw=size_hw, nms_iou=nms_iou)[:max_detections]
        found.append(Detections(boxes_xyxy=clipped[best], scores=scores[best], labels=labels[best]))
    return found


def _strongest_pairs(
    embeddings: Tensor, centerness: Tensor, texts: Tensor, *, bias: Tensor, topk: int, max_pairs: int
) -> Tensor:
    """Numbers of the ``topk`` strongest pairs of regions [K, D] and texts [M, D], ascending; of equals the first ones."""
    best = torch.empty(0, dtype=torch.long, device=embeddings.device)
    best_scores = embeddings.new_empty(0)
    confidence = centerness.sigmoid()[:, None]
    step = max(1, max_pairs // len(texts))
    for start in range(0, len(embeddings), step):
        chunk = slice(start, start + step)
        scores = (embeddings[chunk] @ texts.T).add_(bias).sigmoid_().mul_(confidence[chunk]).flatten()
        if len(best) == topk:  # of equals the first ones stay, so only a stronger pair can enter
            candidates = (scores > best_scores.min()).nonzero().squeeze(1)
            scores = scores[candidates]
        else:
            candidates = torch.arange(len(scores), device=scores.device)
        pairs, scores = torch.cat([best, candidates + start * len(texts)]), torch.cat([best_scores, scores])
        keep = _first_of_the_strongest(scores, topk)
        best, best_scores = pairs[keep], scores[keep]
    return best


def _first_of_the_strongest(scores: Tensor, topk: int) -> Tensor:
    """Ascending positions of the ``topk`` highest scores; ``Tensor.topk`` alone may take any of the equal ones."""
    if len(scores) <= topk:
        return torch.arange(len(scores), device=scores.device)
    weakest = scores.topk(topk, sorted=False).values.min()
    above = (scores > weakest).nonzero().squeeze(1)
    equal = (scores == weakest).nonzero().squeeze(1)[: topk - len(above)]
    return torch.cat([above, equal]).sort().values


def _suppress(
    boxes_xyxy: Tensor, scores: Tensor, labels: Tensor, *, size_hw: tuple[int, int], nms_iou: float
) -> Tensor:
    """Positions that survive suppression within their label, best first; among equals the first comes first.

    Every label gets a place of its own in the plane, as in torchvision's ``batched_nms``, but in float64: in float32 the
    boxes of the 13,000th name would lie on a grid of two pixels, and a detection would depend on its name's position.
    """
    span = 1 << max(size_hw).bit_length()  # a power of two wider than the image
    apart = boxes_xyxy.double() + (labels.double() * span)[:, None]
    return nms(apart, scores.double(), nms_iou)


def one_name_each(detections: Detections, *, nms_iou: float = 0.5) -> Detections:
    """The same detections with the best name alone for every object: what a person wants to see, not what AP measures."""
    keep = nms(detections.boxes_xyxy, detections.scores, nms_iou)
    return Detections(
        boxes_xyxy=detections.boxes_xyxy[keep], scores=detections.scores[keep], labels=detections.labels[keep]
    )
