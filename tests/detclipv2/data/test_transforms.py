import io
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from detclipv2.config import SupervisionConfig
from detclipv2.data.decode import EncodedSample, Sample
from detclipv2.data.transforms import Geometry, canvas_size, fit, fitted_size, flipped, pad_to_canvas, resized

ALWAYS, NEVER = 1.0, 0.0


def _image(width: int, height: int, box: tuple[int, int, int, int]) -> Tensor:
    """Black, white inside the box."""
    x1, y1, x2, y2 = box
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, y1:y2, x1:x2] = 255
    return image


def _sample(box: tuple[int, int, int, int] = (4, 2, 20, 12), **changes: Any) -> Sample:
    settings: dict[str, Any] = {
        "key": "k",
        "supervision": "detection",
        "image": _image(40, 20, box),
        "boxes_xyxy": torch.tensor([box], dtype=torch.float32),
        "labels": torch.tensor([0]),
        "concepts": ["dog"],
        "caption": None,
    }
    return Sample(**settings | changes)


def _encoded(sample: Sample) -> EncodedSample:
    """The sample with its image as a PNG, which loses nothing."""
    file = io.BytesIO()
    to_pil_image(sample.image).save(file, "PNG")
    stored: dict[str, Any] = {"where": "here", "jpeg": file.getvalue(), "size_hw": tuple(sample.image.shape[-2:])}
    return EncodedSample(**stored, **{name: value for name, value in vars(sample).items() if name != "image"})


def _fit(sample: Sample, *, seed: int = 0, **changes: Any) -> Sample:
    settings: dict[str, Any] = {"batch_size": 1, "image_size": 64, "flip": NEVER}
    return fit(_encoded(sample), SupervisionConfig(**settings | changes), rng=random.Random(seed))


def _white_box(image: Tensor) -> list[int]:
    """The box around all that is white."""
    rows, columns = (image[0] > 127).nonzero().unbind(1)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def _flipped(sample: Sample) -> Sample:
    mirrored = flipped(sample)
    assert mirrored is not None
    return mirrored


def test_flip_by_hand() -> None:
    sample = _flipped(_sample((4, 2, 20, 12)))

    assert sample.boxes_xyxy.tolist() == [[20, 2, 36, 12]]
    assert _white_box(sample.image) == [20, 2, 36, 12]
    assert _flipped(sample).boxes_xyxy.tolist() == [[4, 2, 20, 12]]


def test_flip_without_boxes() -> None:
    assert _flipped(_sample(boxes_xyxy=torch.zeros(0, 4))).boxes_xyxy.shape == (0, 4)


@pytest.mark.parametrize("flip", [NEVER, ALWAYS])
def test_the_box_stays_around_the_object_and_the_aspect_is_kept(flip: float) -> None:
    sample = _fit(_sample((4, 2, 20, 12)), image_size=80, flip=flip)

    assert sample.image.shape == (3, 40, 80)
    assert sample.boxes_xyxy.tolist() == [[40, 4, 72, 24] if flip else [8, 4, 40, 24]]
    assert _white_box(sample.image) == sample.boxes_xyxy[0].tolist()


def test_the_longer_side_is_resized_whichever_it_is() -> None:
    tall = _fit(_sample(image=_image(20, 40, (0, 0, 4, 4)), boxes_xyxy=torch.tensor([[0.0, 0, 4, 4]])))

    assert tall.image.shape == (3, 64, 32)
    assert tall.boxes_xyxy.tolist() == [pytest.approx([0, 0, 6.4, 6.4])]
    assert _fit(_sample(image=torch.zeros(3, 1, 400, dtype=torch.uint8))).image.shape == (3, 1, 64)


def test_image_text_images_become_squares() -> None:
    sample = _sample(supervision="image_text", boxes_xyxy=torch.zeros(0, 4), caption="a dog")

    assert _fit(sample).image.shape == (3, 64, 64)


def test_scale_jitter_draws_the_longer_side() -> None:
    samples = [_fit(_sample(), seed=seed, scale_jitter=(0.5, 1.0)) for seed in range(40)]
    widths = [sample.image.shape[2] for sample in samples]

    assert min(widths) >= 32
    assert max(widths) <= 64
    assert max(widths) - min(widths) > 20
    for sample in samples:
        torch.testing.assert_close(sample.boxes_xyxy[0, 2] / sample.image.shape[2], torch.tensor(0.5))


def test_the_scales_of_the_paper() -> None:
    photo = _sample(image=_image(40, 30, (4, 2, 20, 12)))
    sizes = [
        _fit(photo, seed=seed, image_size=1333, shorter_size=800, scale_jitter=(0.6, 1.0)).image.shape[1:]
        for seed in range(20)
    ]
    shorter = [min(size) for size in sizes]
    assert 480 <= min(shorter) < 540
    assert 740 < max(shorter) <= 800


def test_of_an_image_larger_than_its_canvas_a_part_is_taken() -> None:
    settings: dict[str, Any] = {"image_size": 80, "shorter_size": 40, "scale_jitter": (1.5, 2.5)}
    samples = [_fit(_sample((10, 5, 30, 15)), seed=seed, **settings) for seed in range(40)]

    assert {tuple(sample.image.shape) for sample in samples} == {(3, 40, 80)}
    corners = set()
    for sample in samples:
        if len(sample.boxes_xyxy):
            box = sample.boxes_xyxy[0].tolist()
            assert _white_box(sample.image) == pytest.approx(box, abs=1.5)
            assert 0 <= box[0] < box[2] <= 80 and 0 <= box[1] < box[3] <= 40
            corners.add((round(box[0]), round(box[1])))
    assert len(corners) > 20


def test_a_crop_by_hand() -> None:
    # Twice as large, 80 x 40 of which the left half is kept.
    boxes = torch.tensor([[2.0, 2, 10, 12], [16, 4, 24, 8], [18, 0, 30, 20], [30, 4, 38, 8]])
    sample = _sample(
        boxes_xyxy=boxes, labels=torch.tensor([1, 2, 0, 3]), concepts=["owl", "dog", "cat", "kite", "no box at all"]
    )
    geometry = Geometry(resized_hw=(40, 80), cropped_hw=(40, 40), place=(0.0, 0.0))
    fitted = resized(sample, geometry)

    assert fitted.image.shape == (3, 40, 40)
    # Half of the second box is left, a sixth of the third, nothing of the fourth.
    assert fitted.boxes_xyxy.tolist() == [[4, 4, 20, 24], [32, 8, 40, 16]]
    assert [fitted.concepts[label] for label in fitted.labels.tolist()] == ["dog", "cat"]
    assert fitted.concepts == ["dog", "cat", "no box at all"]


def test_a_concept_stays_while_one_of_its_boxes_does() -> None:
    boxes = torch.tensor([[2.0, 2, 10, 12], [30, 4, 38, 8]])
    sample = _sample(boxes_xyxy=boxes, labels=torch.tensor([0, 0]))
    fitted = resized(sample, Geometry(resized_hw=(20, 40), cropped_hw=(20, 20)))

    assert (fitted.concepts, fitted.labels.tolist()) == (["dog"], [0])


def test_nothing_is_left_of_any_box() -> None:
    sample = _sample((30, 4, 38, 8))
    fitted = resized(sample, Geometry(resized_hw=(20, 40), cropped_hw=(20, 20)))

    assert (fitted.concepts, fitted.labels.shape, fitted.boxes_xyxy.shape) == ([], (0,), (0, 4))


def test_a_much_larger_image_is_decoded_smaller_and_its_box_is_still_around_the_object() -> None:
    sample = _sample(image=_image(400, 200, (40, 20, 200, 120)), boxes_xyxy=torch.tensor([[40.0, 20, 200, 120]]))
    file = io.BytesIO()
    to_pil_image(sample.image).save(file, "JPEG", quality=95)
    encoded = replace(_encoded(sample), jpeg=file.getvalue())
    fitted = fit(encoded, SupervisionConfig(batch_size=1, image_size=80, flip=ALWAYS), rng=random.Random(0))

    assert fitted.boxes_xyxy.tolist() == [pytest.approx([40, 4, 72, 24])]
    assert _white_box(fitted.image) == [40, 4, 72, 24]


@pytest.mark.parametrize(
    ("texts", "caption", "flips_to"),
    [
        (["left shoe"], None, (["right shoe"], None)),
        (["shoe"], "a shoe on the RIGHT.", (["shoe"], "a shoe on the LEFT.")),
        (["shoe"], "left over", None),
        (["what is right", "shoe"], None, None),
        (["shoe"], "bright leftovers", (["shoe"], "bright leftovers")),
        (["shoe"], None, (["shoe"], None)),
    ],
)
def test_texts_are_true_of_the_flipped_image_or_it_is_not_flipped(
    texts: list[str], caption: str | None, flips_to: tuple[list[str], str | None] | None
) -> None:
    fitted = _fit(_sample(concepts=texts, caption=caption), image_size=40, flip=ALWAYS)

    assert fitted.boxes_xyxy.tolist() == [[20, 2, 36, 12] if flips_to else [4, 2, 20, 12]]
    assert (fitted.concepts, fitted.caption) == (flips_to or (texts, caption))


def test_half_of_the_samples_are_flipped() -> None:
    flips = [_fit(_sample(), seed=seed, image_size=40, flip=0.5).boxes_xyxy[0, 0] == 20 for seed in range(200)]

    assert 70 < sum(flips) < 130


def test_canvas() -> None:
    images = [torch.full((3, 2, 4), 255, dtype=torch.uint8), torch.full((3, 3, 1), 51, dtype=torch.uint8)]

    canvas = pad_to_canvas(images, (3, 4))

    assert canvas.shape == (2, 3, 3, 4)
    assert canvas.dtype == torch.uint8
    assert canvas[0, 0].tolist() == [[255] * 4, [255] * 4, [0] * 4]
    assert canvas[1, 2].tolist() == [[51, 0, 0, 0]] * 3


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
