import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detclipv2.boxes.coder import encode
from detclipv2.models.postprocess import one_name_each, postprocess
from detclipv2.structures import Detections, HeadOutput

ANCHORS = [[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 40, 40], [-5, 30, 5, 60]]
SIZE_HW = (50, 30)


def _output(*, batch: int = 1, valid: list[bool] | None = None, centerness: list[float] | None = None) -> HeadOutput:
    """Four anchors whose embeddings are the axes, so that the text embeddings of names are columns of logits."""
    return HeadOutput(
        embeddings=torch.eye(4).expand(batch, -1, -1),
        box_deltas=torch.zeros(batch, 4, 4),
        centerness=torch.tensor([centerness or [0.0] * 4] * batch),
        anchors_xyxy=torch.tensor(ANCHORS),
        num_anchors=[2, 2],
        valid=torch.tensor([valid or [True] * 4] * batch),
    )


def _found(output: HeadOutput, logits: Tensor, **options: Any) -> list[Detections]:
    """Detections for logits [4, M]."""
    options = {"image_sizes_hw": [SIZE_HW], "logit_bias": 0.0} | options
    return postprocess(output, logits.T, **options)


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def test_detections_by_hand() -> None:
    logits = torch.tensor([[_logit(0.9)], [_logit(0.5)], [_logit(0.64)], [_logit(0.36)]])
    centerness = [_logit(0.9), 9.0, _logit(0.64), _logit(0.25)]

    for bias in (0.0, torch.tensor(-1.5)):
        (found,) = _found(_output(centerness=centerness), logits - bias, logit_bias=bias)

        # Anchor 1 overlaps the better anchor 0 by 9/11; the others are clipped to the image of 30 x 50.
        assert found.boxes_xyxy.tolist() == [[0, 0, 10, 10], [20, 20, 30, 40], [0, 30, 5, 50]]
        assert found.scores.tolist() == pytest.approx([0.81, 0.4096, 0.09])
        assert found.labels.tolist() == [0, 0, 0]


def test_suppression_runs_per_name() -> None:
    logits = torch.full((4, 2), -9.0)
    logits[0, 0], logits[1, 1] = 2.0, 1.0

    (found,) = _found(_output(), logits, score_threshold=0.1)

    assert found.labels.tolist() == [0, 1]
    assert found.boxes_xyxy.tolist() == ANCHORS[:2]


@pytest.mark.parametrize(("nms_iou", "num_kept"), [(0.8, 1), (0.83, 2)])
def test_overlap_of_suppression(nms_iou: float, num_kept: int) -> None:
    valid = [True, True, False, False]  # of an IoU of 9/11 = 0.818
    (found,) = _found(_output(valid=valid), torch.zeros(4, 1), nms_iou=nms_iou)

    assert found.boxes_xyxy.tolist() == ANCHORS[:num_kept]


def test_padding_is_never_detected() -> None:
    valid = [False, True, True, False]
    (found,) = _found(_output(valid=valid), torch.full((4, 1), 9.0), image_sizes_hw=[(60, 60)])

    assert sorted(found.boxes_xyxy.tolist()) == [ANCHORS[1], ANCHORS[2]]


def test_threshold_and_number_of_detections() -> None:
    logits = torch.tensor([[3.0], [-9.0], [2.0], [1.0]])

    (weak_left_out,) = _found(_output(), logits, score_threshold=0.4)
    (one,) = _found(_output(), logits, max_detections=1)
    (one_a_level,) = _found(_output(), logits, pre_nms_topk=1)

    # sigmoid(S) / 2 = 0.476, 0.000, 0.440, 0.366; anchors 0 and 1 are one level, 2 and 3 the other
    assert weak_left_out.scores.tolist() == pytest.approx([0.476, 0.440], abs=1e-3)
    assert one.boxes_xyxy.tolist() == [ANCHORS[0]]
    assert one_a_level.scores.tolist() == pytest.approx([0.476, 0.440], abs=1e-3)


def test_a_box_outside_the_image_is_none() -> None:
    (found,) = _found(_output(), torch.full((4, 1), 9.0), image_sizes_hw=[(15, 15)])

    assert found.boxes_xyxy.tolist() == [ANCHORS[0]]


def test_images_are_clipped_to_their_own_sizes() -> None:
    logits = torch.full((4, 1), -9.0)
    logits[2] = 0.0
    found = _found(_output(batch=2), logits, image_sizes_hw=[(60, 60), (30, 25)], score_threshold=0.1)

    assert [image.boxes_xyxy.tolist() for image in found] == [[[20, 20, 40, 40]], [[20, 20, 25, 30]]]


# Distinct in steps of 1/8, so that no two scores of a name are equal.
logits_of_a_name = st.lists(st.integers(-64, 64).map(lambda eighths: eighths / 8), min_size=4, max_size=4, unique=True)


@settings(max_examples=50, deadline=None)
@given(ours=logits_of_a_name, others=st.lists(logits_of_a_name, min_size=1, max_size=3))
def test_a_name_is_scored_as_if_it_were_alone(ours: list[float], others: list[list[float]]) -> None:
    def of_first_name(logits: Tensor) -> tuple[list[list[float]], list[float]]:
        (found,) = _found(_output(), logits)
        assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
        first = found.labels == 0
        return found.boxes_xyxy[first].tolist(), found.scores[first].tolist()

    together = torch.tensor([ours, *others]).T

    assert of_first_name(together) == of_first_name(together[:, :1])


def _random(seed: int, *, levels: list[int], width: int, num_names: int, is_coarse: bool) -> tuple[HeadOutput, Tensor]:
    """An output and texts of random numbers; coarse ones are whole, so that many scores are equal."""
    generator = torch.Generator().manual_seed(seed)
    num_anchors = sum(levels)

    def draw(*shape: int) -> Tensor:
        return (
            torch.randint(-2, 3, shape, generator=generator).float()
            if is_coarse
            else torch.randn(shape, generator=generator)
        )

    corners = torch.randint(0, 40, (num_anchors, 2), generator=generator).float()
    sizes = torch.randint(2, 12, (num_anchors, 2), generator=generator).float()
    output = HeadOutput(
        embeddings=draw(1, num_anchors, width),
        box_deltas=torch.zeros(1, num_anchors, 4),
        centerness=draw(1, num_anchors),
        anchors_xyxy=torch.cat([corners, corners + sizes], dim=-1),
        num_anchors=levels,
        valid=torch.rand(1, num_anchors, generator=generator) < 0.8,
    )
    return output, draw(num_names, width)


def _rows(found: Detections) -> list[tuple[tuple[float, ...], float, int]]:
    boxes = map(tuple, found.boxes_xyxy.tolist())
    return list(zip(boxes, found.scores.tolist(), found.labels.tolist(), strict=True))


def _naive(output: HeadOutput, texts: Tensor, *, topk: int, nms_iou: float, most: int) -> list[tuple[Any, float, int]]:
    """Loops over every pair in float64. The order among equal scores is level, anchor, name."""
    embeddings, names = output.embeddings[0].double().tolist(), texts.double().tolist()
    pairs: list[tuple[float, int, int]] = []
    start = 0
    for count in output.num_anchors:
        level = []
        for anchor in range(start, start + count):
            for label, name in enumerate(names):
                logit = sum(a * b for a, b in zip(embeddings[anchor], name, strict=True)) - 1.0
                score = 1 / (1 + math.exp(-logit)) / (1 + math.exp(-float(output.centerness[0, anchor])))
                if bool(output.valid[0, anchor]):
                    level.append((-float(torch.tensor(score)), anchor, label))
        pairs += sorted(level)[:topk]
        start += count
    kept: list[tuple[tuple[float, ...], float, int]] = []
    for score, anchor, label in sorted(pairs):
        box = tuple(output.anchors_xyxy[anchor].tolist())
        if all(label != other or _iou(box, kept_box) <= nms_iou for kept_box, _, other in kept):
            kept.append((box, -score, label))
    return kept[:most]


def _iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area_a, area_b = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (area_a + area_b - width * height)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    is_coarse=st.booleans(),
    num_names=st.integers(1, 9),
    topk=st.integers(1, 40),
    max_pairs=st.sampled_from([1, 7, 30, 10**6]),
)
def test_chunks_are_exact(seed: int, is_coarse: bool, num_names: int, topk: int, max_pairs: int) -> None:
    output, texts = _random(seed, levels=[12, 5, 1], width=6, num_names=num_names, is_coarse=is_coarse)
    (found,) = postprocess(
        output,
        texts,
        logit_bias=-1.0,
        image_sizes_hw=[(64, 64)],
        pre_nms_topk=topk,
        nms_iou=0.55,  # no IoU of small whole boxes is 0.55 up to rounding
        max_detections=50,
        max_pairs=max_pairs,
    )

    wanted = _naive(output, texts, topk=topk, nms_iou=0.55, most=50)
    assert [(box, label) for box, _, label in _rows(found)] == [(box, label) for box, _, label in wanted]
    assert found.scores.tolist() == pytest.approx([score for _, score, _ in wanted], rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), subset=st.lists(st.integers(0, 19), min_size=1, max_size=20, unique=True))
def test_scores_are_the_same_bits_for_any_subset_of_the_names(seed: int, subset: list[int]) -> None:
    output, texts = _random(seed, levels=[40, 10], width=33, num_names=20, is_coarse=False)

    def detect(wanted: Tensor, **caps: int) -> list[tuple[tuple[float, ...], float, int]]:
        (found,) = postprocess(output, wanted, logit_bias=-1.0, image_sizes_hw=[(64, 64)], max_pairs=97, **caps)
        return _rows(found)

    caps = {"pre_nms_topk": 10_000, "max_detections": 10_000}  # do not bind
    of_all = {(box, label): score for box, score, label in detect(texts, **caps)}
    of_subset = {(box, subset[label]): score for box, score, label in detect(texts[subset], **caps)}
    assert of_subset == {key: score for key, score in of_all.items() if key[1] in subset}

    capped = {(box, label): score for box, score, label in detect(texts, pre_nms_topk=30, max_detections=20)}
    assert len(capped) == 20
    for (_, label), score in capped.items():
        alone = {score for _, score, _ in detect(texts[label : label + 1], **caps)}
        assert score in alone


def test_a_name_that_comes_twice_is_found_twice() -> None:
    output, texts = _random(3, levels=[40, 10], width=33, num_names=5, is_coarse=False)
    (found,) = postprocess(
        output, texts[[0, 1, 2, 1, 4]], logit_bias=0.0, image_sizes_hw=[(64, 64)], max_detections=10_000
    )

    first, second = ([row[:2] for row in _rows(found) if row[2] == label] for label in (1, 3))
    assert len(first) > 5
    assert first == second


def test_suppression_of_the_last_of_many_names_is_as_fine_as_of_the_first() -> None:
    # Boxes of 2 px with an IoU of 0.6 + 1e-3 and of 0.6 - 1e-3; a grid of whole pixels could not tell them apart.
    sides = [2 * (0.6 + 1e-3), 2 * (0.6 - 1e-3)]
    anchors = torch.tensor([[10.0, 10, 12, 12], [1300, 10, 1302, 12]]).repeat_interleave(2, 0)
    wanted = anchors.clone()
    wanted[1, 2], wanted[3, 2] = 10 + sides[0], 1300 + sides[1]
    output = HeadOutput(
        embeddings=torch.tensor([[[1.0], [0.9], [0.8], [0.7]]]),
        box_deltas=encode(wanted, anchors)[None],
        centerness=torch.zeros(1, 4),
        anchors_xyxy=anchors,
        num_anchors=[4],
        valid=torch.ones(1, 4, dtype=torch.bool),
    )
    texts = torch.full((13_000, 1), -20.0)
    for position in (0, 12_999):
        texts[position] = 2.0
        (found,) = postprocess(output, texts, logit_bias=0.0, image_sizes_hw=[(800, 1333)], score_threshold=0.1)
        texts[position] = -20.0

        assert found.labels.tolist() == [position] * 3
        assert found.boxes_xyxy[:, 0].tolist() == [10, 1300, 1300]


def test_nothing_on_the_image() -> None:
    (found,) = _found(_output(valid=[False] * 4), torch.zeros(4, 2))

    assert (found.boxes_xyxy.shape, found.scores.shape, found.labels.shape) == ((0, 4), (0,), (0,))


def test_one_name_for_every_object() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 4], [50, 50, 60, 60]])
    found = one_name_each(
        Detections(boxes_xyxy=boxes, scores=torch.tensor([0.6, 0.9, 0.3, 0.1]), labels=torch.tensor([0, 1, 2, 0]))
    )

    # IoUs with the best: 0.9, which goes, and 4/9.
    assert found.boxes_xyxy.tolist() == boxes[[1, 2, 3]].tolist()
    assert found.scores.tolist() == pytest.approx([0.9, 0.3, 0.1])
    assert found.labels.tolist() == [1, 2, 0]
