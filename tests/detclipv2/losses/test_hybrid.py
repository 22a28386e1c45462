from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from detclipv2.boxes.atss import assign, centerness_target
from detclipv2.boxes.coder import decode
from detclipv2.config import LossConfig, ModelConfig
from detclipv2.losses.box import box_loss, centerness_loss
from detclipv2.losses.hybrid import HybridObjective
from detclipv2.models.detector import DetCLIPv2
from detclipv2.ops.word_region import best_region_similarity
from detclipv2.structures import Batch

BOXES: list[list[list[float]]] = [[[4.0, 4, 36, 40], [30, 20, 60, 60]], [[8.0, 8, 40, 24]]]
CONCEPTS = [["dog", "cat", "owl"], ["cat", "apple"]]

MakeBatch = Callable[..., Batch]
Build = Callable[..., DetCLIPv2]
Gradients = Callable[[HybridObjective, Batch], dict[str, Tensor | None]]


def _objective(detector: DetCLIPv2, **changes: Any) -> HybridObjective:
    return HybridObjective(detector, LossConfig(**changes)).train()


def test_losses_of_each_supervision_type(tiny_detector: Build, make_batch: MakeBatch) -> None:
    objective = _objective(tiny_detector())

    assert set(objective(make_batch("detection", CONCEPTS, BOXES))) == {"align", "box", "centerness"}
    assert set(objective(make_batch("grounding", CONCEPTS, BOXES))) == {"align"}
    assert set(objective(make_batch("image_text", CONCEPTS))) == {"contrastive"}


def test_boxed_losses_equal_their_parts(tiny_detector: Build, make_batch: MakeBatch) -> None:
    objective = _objective(tiny_detector(), box_weight=3.0, centerness_weight=5.0)
    labels = [torch.tensor([2, 0]), torch.tensor([1])]
    batch = replace(make_batch("detection", CONCEPTS, BOXES), labels=labels)

    losses = objective(batch)

    detector = objective.detector
    output = detector(batch.pixels, batch.image_sizes_hw)
    distinct = ["apple", "cat", "dog", "owl"]
    logits = detector.logits(output.embeddings, detector.text_encoder(distinct))
    targets = torch.zeros(2, 86, 4)
    predicted, wanted, weights, centerness = [], [], [], []
    for image, (boxes, names) in enumerate(zip(batch.boxes_xyxy, [["owl", "dog"], ["apple"]], strict=True)):
        found = assign(boxes, output.anchors_xyxy, num_anchors=output.num_anchors)
        for anchor, box in zip(found.anchors.tolist(), found.boxes.tolist(), strict=True):
            targets[image, anchor, distinct.index(names[box])] = 1
        anchors = output.anchors_xyxy[found.anchors]
        predicted.append(decode(output.box_deltas[image, found.anchors], anchors))
        wanted.append(boxes[found.boxes])
        weights.append(centerness_target(anchors, boxes[found.boxes]))
        centerness.append(output.centerness[image, found.anchors])
    weight = torch.cat(weights)
    num_positives = torch.tensor(float(len(weight)))
    by_hand = {
        "align": (sigmoid_focal_loss(logits, targets) * output.valid[..., None]).sum() / num_positives,
        "box": 3 * box_loss(torch.cat(predicted), torch.cat(wanted), centerness=weight, centerness_sum=weight.sum()),
        "centerness": 5 * centerness_loss(torch.cat(centerness), weight, num_positives=num_positives),
    }
    assert num_positives >= 3
    for name, loss in losses.items():
        torch.testing.assert_close(loss, by_hand[name], msg=name)


def test_concepts_are_pooled_over_the_batch(tiny_detector: Build, make_batch: MakeBatch) -> None:
    objective = _objective(tiny_detector())

    def align(concepts: list[list[str]]) -> Tensor:
        return objective(make_batch("grounding", concepts, [BOXES[0][:1], BOXES[1]]))["align"]

    apart = align([["dog"], ["cat"]])
    # Every image meets all concepts of the batch, once each, in whatever order they come.
    torch.testing.assert_close(align([["dog", "cat"], ["cat", "dog"]]), apart)
    assert float(align([["dog", "owl"], ["cat"]]).detach()) > float(apart.detach())


def test_image_text_loss_equals_its_parts(tiny_detector: Build, make_batch: MakeBatch) -> None:
    # All anchors are proposals: nothing is suppressed at an IoU of 1.
    detector = tiny_detector(region_norm="unit")
    objective = _objective(detector, num_proposals=86, proposal_nms_iou=1.0, contrastive_weight=0.5)
    captions = [["dog", "a dog and an owl", "owl"], ["cat"], ["dog", "cat"]]
    batch = make_batch("image_text", captions)

    found = objective(batch)["contrastive"]

    output = detector(batch.pixels, batch.image_sizes_hw)
    similarity = torch.stack(
        [
            best_region_similarity(detector.text_encoder(texts), output.embeddings, output.valid).mean(0)
            for texts in captions
        ]
    )
    wanted = 0.5 * F.cross_entropy(similarity / 0.5, torch.arange(3), label_smoothing=0.1)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("supervision", "deformable"), [("image_text", True), ("image_text", False), ("grounding", True)]
)
def test_who_learns_without_box_losses(
    supervision: str, deformable: bool, tiny_detector: Build, make_batch: MakeBatch, gradients: Gradients
) -> None:
    objective = _objective(tiny_detector(deformable=deformable))
    found = gradients(objective, make_batch(supervision, CONCEPTS, BOXES if supervision == "grounding" else None))

    def norms(prefix: str) -> list[float]:
        chosen = {name: grad for name, grad in found.items() if name.startswith(prefix)}
        assert chosen, prefix
        return [0.0 if grad is None else float(grad.norm()) for grad in chosen.values()]

    for prefix in ("head.output.box", "head.output.centerness", "head.output.scales"):
        assert not any(norms(prefix))
    assert all(norms("head.classification_tower"))
    assert all(norms("text_encoder.projection"))
    assert any(norms("backbone"))
    assert all(norm > 0 for norm in norms("head.regression_tower")) == deformable


def test_all_that_detection_trains(tiny_detector: Build, make_batch: MakeBatch, gradients: Gradients) -> None:
    found = gradients(_objective(tiny_detector()), make_batch("detection", CONCEPTS, BOXES))

    silent = {name for name, grad in found.items() if grad is None or not grad.any()}
    assert all(name.startswith("text_encoder.transformer.") for name in silent)


@pytest.mark.parametrize("supervision", ["detection", "grounding"])
@pytest.mark.parametrize("concepts", [[["dog"], ["cat"]], [["dog"], []]])
def test_no_boxes_no_nan(
    supervision: str, concepts: list[list[str]], tiny_detector: Build, make_batch: MakeBatch, gradients: Gradients
) -> None:
    objective = _objective(tiny_detector())
    batch = make_batch(supervision, concepts)

    losses = objective(batch)

    assert all(bool(loss.isfinite()) for loss in losses.values())
    assert all(float(losses[name].detach()) == 0 for name in losses if name != "align")
    assert all(bool(grad.isfinite().all()) for grad in gradients(objective, batch).values() if grad is not None)


def test_a_degenerate_box_gives_no_nan(tiny_detector: Build, make_batch: MakeBatch, gradients: Gradients) -> None:
    boxes = [[[10.0, 10, 10, 30]], [[23.98, 23.98, 24.02, 24.02]]]
    batch = make_batch("detection", [["dog"], ["cat"]], boxes)

    found = gradients(_objective(tiny_detector()), batch)

    assert all(bool(grad.isfinite().all()) for grad in found.values() if grad is not None)


def test_images_smaller_than_the_canvas_train_too(
    tiny_config: ModelConfig, tiny_detector: Build, make_batch: MakeBatch, gradients: Gradients
) -> None:
    batch = replace(make_batch("image_text", CONCEPTS), image_sizes_hw=[(64, 64), (17, 9)])

    found = gradients(_objective(tiny_detector(region_norm="unit")), batch)

    assert all(bool(grad.isfinite().all()) for grad in found.values() if grad is not None)


def test_a_batch_without_any_concept(tiny_detector: Build, make_batch: MakeBatch) -> None:
    with pytest.raises(
        ValueError, match="a batch without any concept: every sample needs a category, a phrase or a caption"
    ):
        _objective(tiny_detector())(make_batch("grounding", [[], []]))


def test_a_caption_without_any_concept(tiny_detector: Build, make_batch: MakeBatch) -> None:
    with pytest.raises(ValueError, match=r"image-text pairs \['image-1'\] have no concept: a pair needs a phrase"):
        _objective(tiny_detector())(make_batch("image_text", [["dog"], []]))


@pytest.mark.parametrize("score", ["foreground", "iou"])
def test_a_score_that_knows_no_text_is_trained_on_detection_alone(
    score: str, tiny_detector: Build, make_batch: MakeBatch, gradients: Gradients
) -> None:
    objective = _objective(tiny_detector(objectness=True), proposal_score=score)

    assert set(objective(make_batch("detection", CONCEPTS, BOXES))) == {"align", "box", "centerness", "objectness"}
    assert set(objective(make_batch("grounding", CONCEPTS, BOXES))) == {"align"}
    found = gradients(objective, make_batch("detection", CONCEPTS, BOXES))["head.output.objectness.weight"]
    assert found is not None
    assert float(found.norm()) > 0
    found = gradients(objective, make_batch("image_text", CONCEPTS))["head.output.objectness.weight"]
    assert found is None or not found.any()


@pytest.mark.parametrize("score", ["text_sample", "text_batch_centerness", "centerness", "foreground", "iou"])
@pytest.mark.parametrize("direction", ["text_to_image", "image_to_text", "both"])
@pytest.mark.parametrize("matching", ["hard", "soft", "max_box"])
def test_every_row_of_table_2_trains(
    score: str, direction: str, matching: str, tiny_detector: Build, make_batch: MakeBatch, gradients: Gradients
) -> None:
    detector = tiny_detector(objectness=True, region_norm="unit")
    changes = {"proposal_score": score, "direction": direction, "matching": matching, "num_proposals": 5}
    found = gradients(_objective(detector, **changes), make_batch("image_text", CONCEPTS))

    for prefix in ("head.classification_tower", "text_encoder.projection"):
        norms = [float(grad.norm()) for name, grad in found.items() if name.startswith(prefix) and grad is not None]
        assert norms
        assert all(0 < norm < float("inf") for norm in norms)


def test_the_largest_region_and_the_caption(tiny_detector: Build, make_batch: MakeBatch) -> None:
    detector = tiny_detector(region_norm="unit")
    objective = _objective(
        detector,
        matching="max_box",
        num_proposals=86,
        proposal_nms_iou=1.0,
        label_smoothing=0.0,
        contrastive_weight=1.0,
    )
    captions = [["dog", "a dog and an owl"], ["a cat"]]
    batch = make_batch("image_text", captions)

    found = objective(batch)["contrastive"]

    output = detector(batch.pixels, batch.image_sizes_hw)
    boxes = decode(output.box_deltas, output.anchors_xyxy)
    largest = (boxes[..., 2:] - boxes[..., :2]).prod(-1).argmax(-1)
    similarity = detector.text_encoder(["a dog and an owl", "a cat"]) @ output.embeddings[[0, 1], largest].T
    torch.testing.assert_close(found, F.cross_entropy(similarity / 0.5, torch.arange(2)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"proposal_score": "iou"}, "loss.proposal_score 'iou' needs model.objectness"),
        ({"matching": "max_box", "caption_as_concept": False}, "'max_box' compares captions: it needs"),
    ],
)
def test_losses_that_want_what_is_not_there(changes: dict[str, Any], message: str, tiny_detector: Build) -> None:
    with pytest.raises(ValueError, match=message):
        _objective(tiny_detector(), **changes)


@pytest.mark.parametrize("supervision", ["detection", "grounding", "image_text"])
def test_odd_names_give_no_nan(
    supervision: str, tiny_detector: Build, make_batch: MakeBatch, gradients: Gradients
) -> None:
    concepts = [["dog", "dog", " ".join(["red"] * 500)], ["dog", "\u200b?"]]
    objective = _objective(tiny_detector())
    batch = make_batch(supervision, concepts, None if supervision == "image_text" else BOXES)

    assert all(bool(loss.isfinite()) for loss in objective(batch).values())
    assert all(bool(grad.isfinite().all()) for grad in gradients(objective, batch).values() if grad is not None)


def test_a_name_that_comes_twice_is_one_concept(tiny_detector: Build, make_batch: MakeBatch) -> None:
    objective = _objective(tiny_detector())
    once = make_batch("detection", [["dog", "cat"], ["cat"]], BOXES)
    twice = make_batch("detection", [["dog", "cat", "dog"], ["cat"]], BOXES)

    for labels in ([0, 1], [2, 1]):
        found = objective(replace(twice, labels=[torch.tensor(labels), torch.tensor([0])]))
        torch.testing.assert_close(found, objective(once))


def test_a_box_that_comes_a_thousand_times(tiny_detector: Build, make_batch: MakeBatch) -> None:
    objective = _objective(tiny_detector())
    once = make_batch("detection", [["dog"]], [BOXES[0][:1]])
    often = replace(once, boxes_xyxy=[once.boxes_xyxy[0].repeat(1000, 1)], labels=[torch.zeros(1000, dtype=torch.long)])

    torch.testing.assert_close(objective(often), objective(once))
