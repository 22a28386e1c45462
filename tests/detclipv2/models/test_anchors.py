import torch

from detclipv2.models.anchors import make_anchors, valid_anchors


def test_anchors_by_hand() -> None:
    anchors = make_anchors([(2, 2), (1, 1)], [8, 16], scale=2.0, device=torch.device("cpu"))

    # The side is two strides; the centre is the upper left corner of the cell; row by row.
    assert anchors.tolist() == [[-8, -8, 8, 8], [0, -8, 16, 8], [-8, 0, 8, 16], [0, 0, 16, 16], [-16, -16, 16, 16]]


def test_as_many_anchors_as_the_method_counts() -> None:
    def count(height: int, width: int) -> int:
        sizes = [(-(-height // stride), -(-width // stride)) for stride in (8, 16, 32, 64, 128)]
        return len(make_anchors(sizes, [8, 16, 32, 64, 128], scale=8.0, device=torch.device("cpu")))

    assert count(320, 320) == 2134


def test_valid_anchors_have_their_centre_on_the_image_and_its_own_padding() -> None:
    anchors = make_anchors([(2, 3)], [32], scale=8.0, device=torch.device("cpu"))  # centres x 0, 32, 64; y 0, 32

    valid = valid_anchors(anchors, [(64, 96), (32, 64), (33, 32), (1, 65)])

    assert valid.tolist() == [
        [True, True, True, True, True, True],
        [True, True, False, False, False, False],
        [True, False, False, True, False, False],
        [True, True, True, False, False, False],
    ]


def test_an_image_ends_at_a_multiple_of_32_px_at_every_stride() -> None:
    anchors = make_anchors([(8, 8), (4, 4)], [8, 16], scale=8.0, device=torch.device("cpu"))

    fine, coarse = valid_anchors(anchors, [(8, 33)])[0].split([64, 16])

    assert fine.reshape(8, 8).any(1).tolist() == [True] * 4 + [False] * 4
    assert fine.reshape(8, 8).any(0).tolist() == [True] * 8
    assert coarse.reshape(4, 4).any(1).tolist() == [True] * 2 + [False] * 2
