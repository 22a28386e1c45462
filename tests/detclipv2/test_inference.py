import random
from collections.abc import Callable

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from detclipv2.config import SupervisionConfig
from detclipv2.data.decode import Sample
from detclipv2.data.transforms import fit, pad_to_canvas
from detclipv2.inference import Predictor
from detclipv2.models.detector import DetCLIPv2
from detclipv2.structures import Detections

ORIENTATION = 0x0112


@pytest.fixture
def predictor(tiny_detector: Callable[..., DetCLIPv2]) -> Predictor:
    """Every box is its anchor, as wide as its stride, so that none is suppressed."""
    detector = tiny_detector(anchor_scale=1.0)
    torch.nn.init.zeros_(detector.head.output.box.weight)
    return Predictor(detector, image_size=64)


def _photo(width: int, height: int) -> Image.Image:
    noise = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Image.fromarray(noise.numpy())


def _rows(found: Detections) -> list[tuple[list[float], float, int]]:
    return list(zip(found.boxes_xyxy.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True))


@pytest.mark.parametrize(
    ("size", "resized"), [((64, 64), (64, 64)), ((200, 100), (64, 32)), ((90, 240), (24, 64)), ((500, 3), (64, 1))]
)
def test_boxes_are_in_pixels_of_the_photo(
    predictor: Predictor, size: tuple[int, int], resized: tuple[int, int]
) -> None:
    found = predictor(_photo(*size), names=["dog"])

    scale_x, scale_y = size[0] / resized[0], size[1] / resized[1]
    wanted = [
        [
            max(0, x - stride / 2) * scale_x,
            max(0, y - stride / 2) * scale_y,
            min(resized[0], x + stride / 2) * scale_x,
            min(resized[1], y + stride / 2) * scale_y,
        ]
        for stride in (8, 16, 32, 64, 128)
        for y in range(0, resized[1], stride)
        for x in range(0, resized[0], stride)
    ]
    assert sorted(found.boxes_xyxy.tolist()) == [pytest.approx(box, abs=1e-3) for box in sorted(wanted)]


def test_best_first_labels_and_limits(predictor: Predictor) -> None:
    found = predictor(_photo(80, 60), names=["dog", "red apple"], max_detections=7)

    assert len(found.boxes_xyxy) == len(found.scores) == len(found.labels) == 7
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    every = predictor(_photo(80, 60), names=["dog", "red apple"])
    assert set(every.labels.tolist()) == {0, 1}
    threshold = float(every.scores.median())
    kept = predictor(_photo(80, 60), names=["dog", "red apple"], score_threshold=threshold)
    assert kept.scores.tolist() == [score for score in every.scores.tolist() if score > threshold]


def test_a_photo_is_turned_upright_first(predictor: Predictor) -> None:
    upright = _photo(40, 80)
    sideways = upright.transpose(Image.Transpose.ROTATE_90)
    sideways.getexif()[ORIENTATION] = 6  # to be shown turned by 90 degrees clockwise

    assert sideways.size == (80, 40)
    assert _rows(predictor(sideways, names=["dog"])) == _rows(predictor(upright, names=["dog"]))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_any_mode(predictor: Predictor, mode: str) -> None:
    image = _photo(50, 40).convert(mode)

    found = predictor(image, names=["dog"])

    assert _rows(found) == _rows(predictor(image.convert("RGB"), names=["dog"]))
    assert len(found.scores) > 0


def test_names_can_be_encoded_once(predictor: Predictor) -> None:
    names = ["dog", " red apple "]
    texts = predictor.encode_names(names)

    assert texts.shape == (2, 16)
    assert torch.equal(texts, predictor.encode_names(["dog", "red apple"]))
    assert _rows(predictor(_photo(50, 40), names=texts)) == _rows(predictor(_photo(50, 40), names=names))


def test_a_score_does_not_depend_on_the_other_names(predictor: Predictor) -> None:
    alone = predictor(_photo(64, 64), names=["dog"])
    together = predictor(_photo(64, 64), names=["red apple", "dog", "owl"])

    of_dog = [row[:2] for row in _rows(together) if row[2] == 1]
    # By box: many of the scores are equal.
    for (box, score), (wanted_box, wanted_score, _) in zip(sorted(of_dog), sorted(_rows(alone)), strict=True):
        assert box == wanted_box
        assert score == pytest.approx(wanted_score)


def test_names_that_name_nothing(predictor: Predictor) -> None:
    with pytest.raises(ValueError, match="no names to look for: give at least one"):
        predictor(_photo(8, 8), names=[])
    with pytest.raises(ValueError, match="name number 2 of 3 is empty"):
        predictor(_photo(8, 8), names=["dog", "  ", "cat"])


@pytest.mark.parametrize("image_size", [50, 64])
def test_the_detector_sees_the_canvas_of_training(tiny_detector: Callable[..., DetCLIPv2], image_size: int) -> None:
    predictor = Predictor(tiny_detector(), image_size=image_size)
    photo = _photo(40, 20)
    sample = Sample(
        key="k",
        supervision="detection",
        image=pil_to_tensor(photo),
        boxes_xyxy=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.long),
        concepts=["dog"],
        caption=None,
    )
    config = SupervisionConfig(batch_size=1, image_size=image_size, flip=0.0)
    trained_on = pad_to_canvas([fit(sample, config, rng=random.Random(0)).image], (image_size, image_size))
    seen: list[torch.Tensor] = []
    predictor.detector.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))

    predictor(photo, names=["dog"])

    assert torch.equal(seen[0], trained_on)
