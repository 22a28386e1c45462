import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detclipv2.boxes.coder import decode, encode

coordinates = st.floats(-500, 500, width=32)
sides = st.floats(8, 400, width=32)
boxes = st.tuples(coordinates, coordinates, sides, sides).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


def test_decode_by_hand() -> None:
    anchor = torch.tensor([0.0, 0.0, 10.0, 20.0])
    deltas = torch.tensor([1.0, -1.0, math.log(2) / 0.2, -math.log(2) / 0.2])

    # Centre (5 + 0.1 * 10, 10 - 0.1 * 20) = (6, 8), width 2 * 10, height 20 / 2.
    torch.testing.assert_close(decode(deltas, anchor), torch.tensor([-4.0, 3.0, 16.0, 13.0]))
    torch.testing.assert_close(decode(torch.zeros(4), anchor), anchor)


def test_encode_by_hand() -> None:
    deltas = encode(torch.tensor([-4.0, 3.0, 16.0, 13.0]), torch.tensor([0.0, 0.0, 10.0, 20.0]))

    torch.testing.assert_close(deltas, torch.tensor([1.0, -1.0, math.log(2) / 0.2, -math.log(2) / 0.2]))


def test_wild_deltas_stay_finite() -> None:
    box = decode(torch.tensor([0.0, 0.0, 1e9, -1e9]), torch.tensor([0.0, 0.0, 16.0, 16.0]))

    torch.testing.assert_close(box[2] - box[0], torch.tensor(1000.0), rtol=1e-4, atol=0)
    torch.testing.assert_close(box[3] - box[1], torch.tensor(16 * 16 / 1000), rtol=1e-2, atol=0)


def test_anchors_broadcast_over_images() -> None:
    anchors = torch.tensor([[0.0, 0.0, 8.0, 8.0], [8.0, 0.0, 16.0, 8.0]])

    assert decode(torch.zeros(3, 2, 4), anchors).tolist() == [anchors.tolist()] * 3


def test_half_precision_deltas_are_decoded_in_fp32() -> None:
    assert decode(torch.zeros(4, dtype=torch.bfloat16), torch.tensor([0.0, 0.0, 8.0, 8.0])).dtype == torch.float32


@settings(max_examples=50, deadline=None)
@given(box=boxes, anchor=boxes)
def test_decode_inverts_encode(box: tuple[float, ...], anchor: tuple[float, ...]) -> None:
    box_xyxy, anchor_xyxy = torch.tensor(box), torch.tensor(anchor)

    assert decode(encode(box_xyxy, anchor_xyxy), anchor_xyxy).tolist() == pytest.approx(box_xyxy.tolist(), abs=0.02)
