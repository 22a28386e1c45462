from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from detclipv2.models import proposals as proposals_module
from detclipv2.models.proposals import Proposals, largest_proposal, region_scores, select_proposals
from detclipv2.structures import HeadOutput

TEXTS = torch.tensor([[1.0, 0.0], [0.0, 1.0]])


def _output(embeddings: list[list[list[float]]], anchors: list[list[float]], valid: Tensor | None = None) -> HeadOutput:
    regions = torch.tensor(embeddings, requires_grad=True)
    batch, count = regions.shape[:2]
    return HeadOutput(
        embeddings=regions,
        box_deltas=torch.zeros(batch, count, 4, requires_grad=True),
        centerness=torch.zeros(batch, count, requires_grad=True),
        anchors_xyxy=torch.tensor(anchors),
        num_anchors=[count],
        valid=torch.ones(batch, count, dtype=torch.bool) if valid is None else valid,
    )


def _select(output: HeadOutput, *, num_proposals: int) -> Proposals:
    """By the best similarity to any text of the batch."""
    scores = region_scores(output, TEXTS, [[0, 1]] + [[1]] * (len(output.valid) - 1), score="text_batch")
    return select_proposals(output, scores, num_proposals=num_proposals, nms_iou=0.6)


APART: list[list[float]] = [[0.0, 0, 9, 9], [10, 0, 19, 9], [20, 0, 29, 9], [30, 0, 39, 9]]


def test_the_most_similar_to_any_text_come_first() -> None:
    output = _output([[[0.1, 0.2], [0.9, -5.0], [-1.0, -1.0], [0.0, 2.0]]], APART)

    proposals = _select(output, num_proposals=3)

    # Objectness is the maximum over texts: 0.2, 0.9, -1, 2.
    assert proposals.embeddings[0].tolist() == output.embeddings[0, [3, 1, 0]].tolist()
    assert proposals.mask.tolist() == [[True, True, True]]


def test_suppression_is_class_agnostic_and_within_an_image() -> None:
    # Anchors 0 and 1 overlap by 9/11, anchors 2 and 3 by 1/3.
    anchors: list[list[float]] = [[0, 0, 10, 10], [1, 0, 11, 10], [50, 0, 60, 10], [55, 0, 65, 10]]
    embeddings = [[[3.0, 0.0], [0.0, 2.0], [1.0, 0.0], [0.5, 0.0]], [[0.0, 0.0], [0.0, 2.0], [1.0, 0.0], [0.5, 0.0]]]
    output = _output(embeddings, anchors)

    proposals = _select(output, num_proposals=4)

    assert proposals.mask.tolist() == [[True, True, True, False]] * 2
    assert proposals.embeddings[0, :3].tolist() == output.embeddings[0, [0, 2, 3]].tolist()
    assert proposals.embeddings[1, :3].tolist() == output.embeddings[1, [1, 2, 3]].tolist()


def test_padding_is_no_proposal() -> None:
    valid = torch.tensor([[True, False, True, False], [False, False, False, False]])
    output = _output([[[0.1, 0.0], [9.0, 0.0], [0.2, 0.0], [9.0, 0.0]]] * 2, APART, valid)

    proposals = _select(output, num_proposals=4)

    assert proposals.mask.tolist() == [[True, True, False, False], [False] * 4]
    assert proposals.embeddings[0, :2].tolist() == output.embeddings[0, [2, 0]].tolist()


def test_only_the_selected_embeddings_get_a_gradient() -> None:
    output = _output([[[0.1, 0.2], [0.9, 0.0], [-1.0, -1.0], [0.0, 2.0]]], APART)

    proposals = _select(output, num_proposals=2)
    (proposals.embeddings * torch.tensor([[[1.0], [10.0]]])).sum().backward()

    assert output.embeddings.grad is not None
    assert output.embeddings.grad[0].tolist() == [[0, 0], [10, 10], [0, 0], [1, 1]]
    assert output.box_deltas.grad is None
    assert output.centerness.grad is None


def test_boxes_are_decoded_before_suppression() -> None:
    output = _output([[[2.0, 0.0], [1.0, 0.0], [0.5, 0.0], [0.2, 0.0]]], APART)
    with torch.no_grad():
        output.box_deltas[0, 1, 0] = -10 / 9 / 0.1  # moves anchor 1 onto anchor 0

    proposals = _select(output, num_proposals=4)

    assert proposals.embeddings[0, :3].tolist() == output.embeddings[0, [0, 2, 3]].tolist()
    assert proposals.mask.tolist() == [[True, True, True, False]]


def test_regions_that_are_no_numbers_are_not_hidden() -> None:
    output = _output([[[torch.nan, torch.nan]] * 4], APART)

    proposals = _select(output, num_proposals=2)

    assert proposals.mask.all()
    assert proposals.embeddings.isnan().all()


def test_boxes_of_the_proposals() -> None:
    output = _output([[[0.1, 0.2], [0.9, -5.0], [-1.0, -1.0], [0.0, 2.0]]], APART)

    proposals = _select(output, num_proposals=2)

    assert proposals.boxes_xyxy.tolist() == [[APART[3], APART[1]]]


def _scored() -> HeadOutput:
    """Two images of two regions; embeddings are their similarities to the two texts."""
    output = _output([[[4.0, 1.0], [2.0, 3.0]], [[-1.0, -2.0], [0.0, -3.0]]], APART[:2])
    return replace(
        output,
        centerness=torch.tensor([[0.0, 20.0], [0.0, -20.0]]),
        objectness=torch.tensor([[-20.0, 0.0], [20.0, 0.0]]),
    )


@pytest.mark.parametrize(
    ("score", "wanted"),
    [
        ("text_batch", [[4.0, 3.0], [-1.0, 0.0]]),
        ("text_sample", [[4.0, 2.0], [-2.0, -3.0]]),
        ("centerness", [[0.5, 1.0], [0.5, 0.0]]),
        ("foreground", [[0.0, 0.5], [1.0, 0.5]]),
        ("iou", [[0.0, 0.5], [1.0, 0.5]]),
        ("text_batch_centerness", [[0.9820 / 2, 0.9526], [0.2689 / 2, 0.0]]),
    ],
)
def test_the_six_scores_by_hand(score: Any, wanted: list[list[float]]) -> None:
    found = region_scores(_scored(), TEXTS, [[0], [1]], score=score)

    torch.testing.assert_close(found, torch.tensor(wanted), atol=1e-4, rtol=0)
    assert not found.requires_grad


def test_texts_of_other_images_alone_do_not_count() -> None:
    found = region_scores(_scored(), torch.cat([TEXTS, torch.full((1, 2), 100.0)]), [[0], [1]], score="text_batch")

    assert found.tolist() == [[4.0, 3.0], [-1.0, 0.0]]


def test_a_score_that_the_head_does_not_predict() -> None:
    output = replace(_scored(), objectness=None)

    with pytest.raises(ValueError, match="proposal_score 'iou' needs a head that predicts it: set model.objectness"):
        region_scores(output, TEXTS, [[0], [1]], score="iou")


def test_similarities_in_chunks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = region_scores(_scored(), TEXTS, [[0], [1]], score="text_batch")
    monkeypatch.setattr(proposals_module, "_CHUNK_ELEMENTS", 2)

    assert torch.equal(region_scores(_scored(), TEXTS, [[0], [1]], score="text_batch"), wanted)


def test_the_largest_proposal() -> None:
    boxes = torch.tensor([[[0.0, 0, 9, 9], [0, 0, 4, 30], [0, 0, 99, 99]], [[0, 0, 0, 0]] * 3])
    embeddings = torch.arange(12.0).reshape(2, 3, 2)
    mask = torch.tensor([[True, True, False], [False] * 3])

    anchors = torch.tensor([[7, 5, 3], [0, 0, 0]])

    found = largest_proposal(Proposals(embeddings=embeddings, boxes_xyxy=boxes, mask=mask, anchors=anchors))

    assert found.embeddings[0].tolist() == [[2.0, 3.0]]
    assert found.anchors[0].tolist() == [5]
    assert found.boxes_xyxy[0].tolist() == [[0, 0, 4, 30]]
    assert found.mask.tolist() == [[True], [False]]
