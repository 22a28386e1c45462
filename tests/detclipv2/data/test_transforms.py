import random
from typing import Any

import pytest
import torch
from torch import Tensor

from detclipv2.config import SupervisionConfig
from detclipv2.data.decode import Sample
from detclipv2.data.transforms import canvas_size, fit, fitted_size, flipped, names_a_side, pad_to_canvas

ALWAYS, NEVER = 1.0, 0.0


def _picture(width: int, height: int, box: tuple[int, int, int, int]) -> Tensor:
    """Black, white inside the box."""
    x1, y1, x2, y2 = box
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, y1:y2, x1:x2] = 255
    return image


def _sample(box: tuple[int, int, int, int] = (4, 2, 20, 12), **changes: Any) -> Sample:
    settings: dict[str, Any] = {
        "key": "k",
        "supervision": "detection",
        "image": _picture(40, 20, box),
        "boxes_xyxy": torch.tensor([box], dtype=torch.float32),
        "labels": torch.tensor([0]),
        "concepts": ["dog"],
        "caption": None,
    }
    return Sample(**settings | changes)


def _fit(sample: Sample, **changes: Any) -> Sample:
    settings: dict[str, Any] = {"batch_size": 1, "image_size": 64, "flip": NEVER}
    return fit(sample, SupervisionConfig(**settings | changes), rng=random.Random(0))


def _white_box(image: Tensor) -> list[int]:
    """The box around all that is white."""
    rows, columns = (image[0] > 127).nonzero().unbind(1)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def test_flip_by_hand() -> None:
    sample = flipped(_sample((4, 2, 20, 12)))

    assert sample.boxes_xyxy.tolist() == [[20, 2, 36, 12]]
    assert _white_box(sample.image) == [20, 2, 36, 12]
    assert type(sample.boxes_xyxy) is Tensor
    assert flipped(sample).boxes_xyxy.tolist() == [[4, 2, 20, 12]]


def test_flip_without_boxes() -> None:
    assert flipped(_sample(boxes_xyxy=torch.zeros(0, 4))).boxes_xyxy.shape == (0, 4)


@pytest.mark.parametrize("flip", [NEVER, ALWAYS])
def test_the_box_stays_around_the_object_and_the_aspect_is_kept(flip: float) -> None:
    sample = _fit(_sample((4, 2, 20, 12)), image_size=80, flip=flip)

    assert sample.image.shape == (3, 40, 80)
    assert sample.boxes_xyxy.tolist() == [[40, 4, 72, 24] if flip else [8, 4, 40, 24]]
    assert _white_box(sample.image) == sample.boxes_xyxy[0].tolist()


def test_the_longer_side_is_resized_whichever_it_is() -> None:
    tall = _fit(_sample(image=_picture(20, 40, (0, 0, 4, 4)), boxes_xyxy=torch.tensor([[0.0, 0, 4, 4]])))

    assert tall.image.shape == (3, 64, 32)
    assert tall.boxes_xyxy.tolist() == [pytest.approx([0, 0, 6.4, 6.4])]
    assert _fit(_sample(image=torch.zeros(3, 1, 400, dtype=torch.uint8))).image.shape == (3, 1, 64)


def test_image_text_pictures_become_squares() -> None:
    sample = _sample(supervision="image_text", boxes_xyxy=torch.zeros(0, 4), caption="a dog")

    assert _fit(sample).image.shape == (3, 64, 64)


def test_scale_jitter_draws_the_longer_side() -> None:
    config = SupervisionConfig(batch_size=1, image_size=64, flip=NEVER, scale_jitter=(0.5, 1.0))
    samples = [fit(_sample(), config, rng=random.Random(seed)) for seed in range(40)]
    widths = [sample.image.shape[2] for sample in samples]

    assert min(widths) >= 32
    assert max(widths) <= 64
    assert max(widths) - min(widths) > 20
    for sample in samples:
        torch.testing.assert_close(sample.boxes_xyxy[0, 2] / sample.image.shape[2], torch.tensor(0.5))


@pytest.mark.parametrize(
    ("texts", "caption", "expected"),
    [
        (["left shoe"], None, True),
        (["shoe"], "a shoe on the RIGHT.", True),
        (["shoe"], "bright leftovers", False),
        (["shoe"], None, False),
    ],
)
def test_what_names_a_side_is_never_flipped(texts: list[str], caption: str | None, expected: bool) -> None:
    sample = _sample(concepts=texts, caption=caption)

    assert names_a_side(sample) == expected
    found = _fit(sample, image_size=40, flip=ALWAYS).boxes_xyxy.tolist()
    assert found == [[4, 2, 20, 12] if expected else [20, 2, 36, 12]]


def test_half_of_the_samples_are_flipped() -> None:
    config = SupervisionConfig(batch_size=1, image_size=40)
    flips = [fit(_sample(), config, rng=random.Random(seed)).boxes_xyxy[0, 0] == 20 for seed in range(200)]

    assert 70 < sum(flips) < 130


def test_canvas() -> None:
    images = [torch.full((3, 2, 4), 255, dtype=torch.uint8), torch.full((3, 3, 1), 51, dtype=torch.uint8)]

    canvas = pad_to_canvas(images, (3, 4))

    assert canvas.shape == (2, 3, 3, 4)
    assert canvas[0, 0].tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]]
    assert canvas[1, 2].tolist() == [pytest.approx([0.2, 0, 0, 0])] * 3


@pytest.mark.parametrize(
    ("size_hw", "fitted", "canvas"),
    [
        ((480, 640), (800, 1067), (800, 1333)),  # the shorter side decides
        ((300, 900), (444, 1333), (800, 1333)),  # the longer side decides
        ((640, 480), (1067, 800), (1333, 800)),
        ((500, 500), (800, 800), (800, 1333)),
        ((1, 1), (800, 800), (800, 1333)),
        ((20, 20_000), (1, 1333), (800, 1333)),
        ((20_000, 3), (1333, 1), (1333, 800)),
    ],
)
def test_sizes_of_the_paper(size_hw: tuple[int, int], fitted: tuple[int, int], canvas: tuple[int, int]) -> None:
    assert fitted_size(size_hw, longer=1333, shorter=800) == fitted
    assert canvas_size(size_hw, longer=1333, shorter=800) == canvas


def test_a_shorter_side_of_its_own() -> None:
    assert _fit(_sample(), image_size=80, shorter_size=32).image.shape == (3, 32, 64)
    assert _fit(_sample(), image_size=80, shorter_size=40).image.shape == (3, 40, 80)
