from collections.abc import Callable

import pytest
import torch

from detclipv2.models.detector import DetCLIPv2


def test_output_of_padded_images(tiny_detector: Callable[..., DetCLIPv2]) -> None:
    detector = tiny_detector().eval()
    pixels = torch.rand(2, 3, 64, 64)

    output = detector(pixels, [(64, 64), (32, 48)])

    assert output.num_anchors == [64, 16, 4, 1, 1]
    assert output.embeddings.shape == (2, 86, 16)
    assert output.box_deltas.shape == (2, 86, 4)
    assert output.centerness.shape == output.valid.shape == (2, 86)
    assert output.anchors_xyxy.shape == (86, 4)
    # Centres of the second image, which ends at (32, 64): 4 x 8, 2 x 4, 1 x 2, 1, 1.
    assert [int(level.sum()) for level in output.valid[1].split(output.num_anchors)] == [32, 8, 2, 1, 1]
    # An anchor's side is scale (4) x stride (8).
    assert output.anchors_xyxy[0].tolist() == [-16, -16, 16, 16]


def test_pixels_are_normalised(tiny_detector: Callable[..., DetCLIPv2]) -> None:
    pixels = torch.rand(1, 3, 64, 64)
    plain = tiny_detector(pixel_mean=(0.0, 0.0, 0.0), pixel_std=(1.0, 1.0, 1.0)).eval()
    normalising = tiny_detector(pixel_mean=(0.1, 0.2, 0.3), pixel_std=(2.0, 3.0, 4.0)).eval()
    by_hand = (pixels - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([2.0, 3.0, 4.0]).view(3, 1, 1)

    found, wanted = normalising(pixels, [(64, 64)]), plain(by_hand, [(64, 64)])

    torch.testing.assert_close(found.embeddings, wanted.embeddings)


def test_logits_are_dot_products_and_a_bias(tiny_detector: Callable[..., DetCLIPv2]) -> None:
    detector = tiny_detector()
    embeddings, texts = torch.eye(16)[None, :2] * 3, torch.eye(16)[:3]

    logits = detector.logits(embeddings, texts)

    bias = float(detector.head.logit_bias)
    assert logits[0].tolist() == [pytest.approx(row) for row in ([3 + bias, bias, bias], [bias, 3 + bias, bias])]


@pytest.mark.parametrize(
    ("backbone", "size_hw", "levels"),
    [
        ("lcnet_035", (50, 39), [7 * 5, 4 * 3, 2 * 2, 1, 1]),
        ("swin_tiny_patch4_window7_224", (65, 95), [12 * 12, 6 * 6, 3 * 3, 2 * 2, 1]),  # padded to 96 x 96
    ],
)
def test_sizes_that_are_no_multiples_of_32(
    backbone: str, size_hw: tuple[int, int], levels: list[int], tiny_detector: Callable[..., DetCLIPv2]
) -> None:
    detector = tiny_detector(backbone=backbone).eval()

    with torch.no_grad():
        output = detector(torch.rand(1, 3, *size_hw), [size_hw])

    assert output.num_anchors == levels
    assert len(output.anchors_xyxy) == sum(levels) == output.embeddings.shape[1]


def test_an_input_of_the_papers_size(tiny_detector: Callable[..., DetCLIPv2]) -> None:
    detector = tiny_detector().eval()

    with torch.no_grad():
        output = detector(torch.rand(1, 3, 800, 1333), [(800, 1333)])

    assert output.num_anchors == [100 * 167, 50 * 84, 25 * 42, 13 * 21, 7 * 11]
    assert bool(output.embeddings.isfinite().all())


def test_images_of_different_sizes_do_not_depend_on_their_neighbours(
    tiny_detector: Callable[..., DetCLIPv2],
) -> None:
    detector = tiny_detector(backbone="swin_tiny_patch4_window7_224").eval()
    sizes = [(64, 96), (33, 96), (64, 41), (1, 1)]
    pixels = torch.zeros(4, 3, 64, 96)
    for slot, (height, width) in zip(pixels, sizes, strict=True):
        slot[:, :height, :width] = torch.rand(3, height, width)

    with torch.no_grad():
        together = detector(pixels, sizes)
        for image, size in enumerate(sizes):
            alone = detector(pixels[image : image + 1], [size])
            for name in ("embeddings", "box_deltas", "centerness"):
                found, wanted = getattr(together, name)[image], getattr(alone, name)[0]
                torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
            assert torch.equal(together.valid[image], alone.valid[0])
