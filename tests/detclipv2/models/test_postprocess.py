import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detclipv2.models.postprocess import one_name_each, postprocess
from detclipv2.structures import Detections, HeadOutput

ANCHORS = [[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 40, 40], [-5, 30, 5, 60]]
SIZE_HW = (50, 30)


def _output(*, batch: int = 1, valid: list[bool] | None = None, centerness: list[float] | None = None) -> HeadOutput:
    return HeadOutput(
        embeddings=torch.zeros(batch, 4, 2),
        box_deltas=torch.zeros(batch, 4, 4),
        centerness=torch.tensor([centerness or [0.0] * 4] * batch),
        anchors_xyxy=torch.tensor(ANCHORS),
        num_anchors=[2, 2],
        valid=torch.tensor([valid or [True] * 4] * batch),
    )


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def test_detections_by_hand() -> None:
    logits = torch.tensor([[[_logit(0.9)], [_logit(0.5)], [_logit(0.64)], [_logit(0.36)]]])
    centerness = [_logit(0.9), 9.0, _logit(0.64), _logit(0.25)]

    (found,) = postprocess(_output(centerness=centerness), logits, image_sizes_hw=[SIZE_HW])

    # Anchor 1 overlaps the better anchor 0 by 9/11; the others are clipped to the picture of 30 x 50.
    assert found.boxes_xyxy.tolist() == [[0, 0, 10, 10], [20, 20, 30, 40], [0, 30, 5, 50]]
    assert found.scores.tolist() == pytest.approx([0.81, 0.4096, 0.09])
    assert found.labels.tolist() == [0, 0, 0]


def test_suppression_runs_per_name() -> None:
    logits = torch.full((1, 4, 2), -9.0)
    logits[0, 0, 0], logits[0, 1, 1] = 2.0, 1.0

    (found,) = postprocess(_output(), logits, image_sizes_hw=[SIZE_HW], score_threshold=0.1)

    assert found.labels.tolist() == [0, 1]
    assert found.boxes_xyxy.tolist() == ANCHORS[:2]


def test_padding_is_never_detected() -> None:
    valid = [False, True, True, False]
    (found,) = postprocess(_output(valid=valid), torch.full((1, 4, 1), 9.0), image_sizes_hw=[(60, 60)])

    assert sorted(found.boxes_xyxy.tolist()) == [ANCHORS[1], ANCHORS[2]]


def test_threshold_and_number_of_detections() -> None:
    logits = torch.tensor([[[3.0], [-9.0], [2.0], [1.0]]])

    (weak_left_out,) = postprocess(_output(), logits, image_sizes_hw=[SIZE_HW], score_threshold=0.4)
    (two,) = postprocess(_output(), logits, image_sizes_hw=[SIZE_HW], max_detections=1)

    # sigmoid(S) / 2 = 0.476, 0.000, 0.440, 0.366
    assert weak_left_out.scores.tolist() == pytest.approx([0.476, 0.440], abs=1e-3)
    assert two.boxes_xyxy.tolist() == [ANCHORS[0]]


def test_a_box_outside_the_picture_is_none() -> None:
    (found,) = postprocess(_output(), torch.full((1, 4, 1), 9.0), image_sizes_hw=[(15, 15)])

    assert found.boxes_xyxy.tolist() == [ANCHORS[0]]


def test_images_are_clipped_to_their_own_sizes() -> None:
    logits = torch.full((2, 4, 1), -9.0)
    logits[:, 2] = 0.0
    found = postprocess(_output(batch=2), logits, image_sizes_hw=[(60, 60), (30, 25)], score_threshold=0.1)

    assert [image.boxes_xyxy.tolist() for image in found] == [[[20, 20, 40, 40]], [[20, 20, 25, 30]]]


# Distinct in steps of 1/8: among equal scores suppression may keep any.
logits_of_a_name = st.lists(st.integers(-64, 64).map(lambda eighths: eighths / 8), min_size=4, max_size=4, unique=True)


@settings(max_examples=50, deadline=None)
@given(ours=logits_of_a_name, others=st.lists(logits_of_a_name, min_size=1, max_size=3))
def test_a_name_is_scored_as_if_it_were_alone(ours: list[float], others: list[list[float]]) -> None:
    def of_first_name(logits: Tensor) -> tuple[list[list[float]], list[float]]:
        (found,) = postprocess(_output(), logits, image_sizes_hw=[SIZE_HW])
        assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
        first = found.labels == 0
        return found.boxes_xyxy[first].tolist(), found.scores[first].tolist()

    together = torch.tensor([ours, *others]).T[None]

    assert of_first_name(together) == of_first_name(together[..., :1])


def test_one_name_for_every_object() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 4], [50, 50, 60, 60]])
    found = one_name_each(
        Detections(boxes_xyxy=boxes, scores=torch.tensor([0.6, 0.9, 0.3, 0.1]), labels=torch.tensor([0, 1, 2, 0]))
    )

    # IoUs with the best: 0.9, which goes, and 4/9.
    assert found.boxes_xyxy.tolist() == boxes[[1, 2, 3]].tolist()
    assert found.scores.tolist() == pytest.approx([0.9, 0.3, 0.1])
    assert found.labels.tolist() == [1, 2, 0]
