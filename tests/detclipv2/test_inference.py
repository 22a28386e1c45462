import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from detclipv2.config import SupervisionConfig
from detclipv2.data.decode import EncodedSample
from detclipv2.data.transforms import fit, pad_to_canvas
from detclipv2.inference import Predictor
from detclipv2.models.detector import DetCLIPv2
from detclipv2.structures import Detections, float_pixels
from detclipv2.text.dictionary import ConceptDictionary
from detclipv2.text.embedding_cache import TextEmbeddingCache

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
        # An image ends at the next multiple of 32; what then lies beside it altogether is no detection.
        for y in range(0, -(-resized[1] // 32) * 32, stride)
        for x in range(0, -(-resized[0] // 32) * 32, stride)
        if x - stride / 2 < resized[0] and y - stride / 2 < resized[1]
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


def test_an_image_in_any_form(predictor: Predictor, tmp_path: Path) -> None:
    photo = _photo(50, 40)
    path = tmp_path / "photo.png"
    photo.save(path)
    wanted = _rows(predictor(photo, names=["dog"]))

    for image in (path, str(path), path.read_bytes(), np.asarray(photo)):
        assert _rows(predictor(image, names=["dog"])) == wanted
    several = predictor((image for image in (path, photo)), names=["dog"])
    assert [_rows(found) for found in several] == [wanted, wanted]
    with pytest.raises(ValueError, match="is a URL: download it first"):
        predictor("https://example.org/photo.jpg", names=["dog"])
    with pytest.raises(ValueError, match="image 2 of 2: .*none.jpg cannot be read as an image: No such file"):
        predictor([path, tmp_path / "none.jpg"], names=["dog"])


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


def test_names_of_any_iterable(predictor: Predictor) -> None:
    photo, wanted = _photo(50, 40), _rows(predictor(_photo(50, 40), names=["dog", "owl"]))
    every: list[Any] = [("dog", "owl"), (name for name in ("dog", "owl")), {"owl", "dog"}, np.array(["dog", "owl"])]
    for names in [*every, {7: "dog", 3: "owl"}]:
        assert _rows(predictor(photo, names=names)) == wanted
    predictor.set_vocabulary(name for name in ("dog", "owl"))
    assert predictor.vocabulary is not None
    assert predictor.vocabulary.names == ["dog", "owl"]
    assert _rows(predictor(photo)) == wanted
    with pytest.raises(ValueError, match="name number 2 of 2 is None"):
        predictor(photo, names=["dog", None])  # type: ignore[list-item]


@pytest.mark.parametrize(
    "texts", [torch.zeros(2, 15), torch.zeros(16), torch.zeros(0, 16), torch.zeros(2, 16, dtype=torch.long)]
)
def test_embeddings_that_are_not_the_models(predictor: Predictor, texts: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"names is a tensor .*this model's text embeddings are floats .*, 16\]"):
        predictor(_photo(8, 8), names=texts)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_embeddings_of_another_precision(predictor: Predictor, dtype: torch.dtype) -> None:
    texts = predictor.encode_names(["dog"])
    assert len(predictor(_photo(8, 8), names=texts.to(dtype)).scores) > 0


NAMES = ["red apple", "dog", "owl", "a very old clock", "dog ", "traffic light", "x", "guitar"]
CAPS = {"max_detections": 100_000, "pre_nms_topk": 100_000}  # do not bind


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.lists(st.integers(0, len(NAMES) - 1), min_size=1, max_size=len(NAMES)))
def test_a_score_does_not_depend_on_the_other_names(predictor: Predictor, chosen: list[int]) -> None:
    """With the same embeddings to the last bit; with names encoded anew up to the padding of the text encoder."""
    photo = _photo(64, 64)
    together = {(*box, label): score for box, score, label in _rows(predictor(photo, names=NAMES, **CAPS))}
    texts = predictor.encode_names(NAMES)

    of_texts = _rows(predictor(photo, names=texts[chosen], **CAPS))
    of_names = _rows(predictor(photo, names=[NAMES[index] for index in chosen], **CAPS))

    num_boxes = len({tuple(box) for box, _, _ in of_texts})
    assert len(together) == num_boxes * len(NAMES)
    assert len(of_texts) == len(of_names) == num_boxes * len(chosen)
    assert all(together[*box, chosen[label]] == score for box, score, label in of_texts)
    assert all(together[*box, chosen[label]] == pytest.approx(score, rel=1e-5) for box, score, label in of_names)


def test_a_name_that_comes_twice(predictor: Predictor) -> None:
    rows = _rows(predictor(_photo(64, 64), names=["dog", "owl", " dog"], **CAPS))

    assert [row[:2] for row in rows if row[2] == 0] == [row[:2] for row in rows if row[2] == 2]


def test_a_vocabulary_is_embedded_once(predictor: Predictor) -> None:
    photo = _photo(50, 40)
    with pytest.raises(ValueError, match=r"nothing to look for: give names=\[...\], or call set_vocabulary"):
        predictor(photo)
    predictor.set_vocabulary(["dog", " red apple "])
    calls: list[object] = []
    predictor.detector.text_encoder.register_forward_pre_hook(lambda module, inputs: calls.append(inputs))

    found = predictor(photo)

    assert not calls
    assert predictor.vocabulary is not None
    assert predictor.vocabulary.names == ["dog", "red apple"]
    assert _rows(found) == _rows(predictor(photo, names=["dog", "red apple"]))
    assert {row[2] for row in _rows(predictor(photo, names=["owl"]))} == {0}, "names still come first"
    assert len(calls) == 2


def test_names_are_set_into_the_prompt(tiny_detector: Callable[..., DetCLIPv2]) -> None:
    plain = Predictor(tiny_detector(), image_size=64)
    prompted = Predictor(tiny_detector(), image_size=64, prompt="a photo of a {}")

    assert torch.equal(
        prompted.encode_names([" dog", "{}"]), plain.encode_names(["a photo of a dog", "a photo of a {}"])
    )


def test_names_are_encoded_as_in_training(tiny_detector: Callable[..., DetCLIPv2]) -> None:
    dictionary = ConceptDictionary(definitions={"owl": "a bird of the night", "dog": None})
    detector = tiny_detector()
    predictor = Predictor(detector, image_size=64, prompt="a photo of a {}", dictionary=dictionary)

    found = predictor.encode_names(["owl", "dog", "owl"], own_definitions={"dog": "a pet"})

    wanted = [
        "a photo of a owl, a bird of the night",
        "a photo of a dog, a pet",
        "a photo of a owl, a bird of the night",
    ]
    torch.testing.assert_close(found, detector.text_encoder(wanted), atol=1e-5, rtol=0)


def test_many_and_long_names(predictor: Predictor) -> None:
    names = [f"thing number {index}" for index in range(600)]
    texts = predictor.encode_names(names)

    assert texts.shape == (600, 16)
    for index in (0, 255, 256, 599):
        torch.testing.assert_close(texts[index : index + 1], predictor.encode_names([names[index]]), atol=1e-5, rtol=0)
    long = " ".join(["red"] * 500)
    assert torch.equal(predictor.encode_names([long]), predictor.encode_names([long + " apple"])), "cut at the limit"
    assert len(predictor(_photo(64, 64), names=[long]).scores) > 0


def test_names_that_name_nothing(predictor: Predictor) -> None:
    with pytest.raises(ValueError, match="no names to look for: give at least one"):
        predictor(_photo(8, 8), names=[])
    with pytest.raises(ValueError, match="name number 2 of 3 is empty"):
        predictor.set_vocabulary(["dog", "  ", "cat"])
    with pytest.raises(ValueError, match=r"names is the single text 'dog': give a list, such as \['dog'\]"):
        predictor(_photo(8, 8), names="dog")


def test_an_image_does_not_depend_on_its_neighbours(predictor: Predictor) -> None:
    photos = [_photo(64, 64), _photo(30, 200), _photo(1, 1).convert("L")]

    together = predictor(photos, names=["dog"], max_detections=50)

    assert [_rows(found) for found in together] == [
        _rows(predictor(photo, names=["dog"], max_detections=50)) for photo in photos
    ]
    assert predictor([], names=["dog"]) == []
    with pytest.raises(ValueError, match="image 2 of 2: the image cannot be read: 0 x 5 pixels are none"):
        predictor([photos[0], Image.new("RGB", (0, 5))], names=["dog"])


@pytest.mark.parametrize("size", [(1, 1), (20_000, 20), (20, 20_000)])
def test_extreme_sizes(predictor: Predictor, size: tuple[int, int]) -> None:
    boxes = predictor(_photo(*size), names=["dog"]).boxes_xyxy

    assert len(boxes) > 0
    assert (boxes >= 0).all() and (boxes <= torch.tensor([*size, *size])).all()


@pytest.mark.parametrize(
    ("size", "canvas"),
    [((100, 100), (40, 40)), ((128, 64), (64, 32)), ((64, 64), (40, 40)), ((30, 60), (32, 64)), ((1000, 10), (64, 1))],
)
def test_the_shorter_side_is_limited_too(
    tiny_detector: Callable[..., DetCLIPv2], size: tuple[int, int], canvas: tuple[int, int]
) -> None:
    predictor = Predictor(tiny_detector(), image_size=64, shorter_size=40)
    seen: list[tuple[int, int]] = []
    predictor.detector.register_forward_pre_hook(lambda module, inputs: seen.extend(inputs[1]))

    predictor(_photo(*size), names=["dog"])

    assert seen == [(canvas[1], canvas[0])]


@pytest.mark.parametrize("image_size", [50, 64])
def test_the_detector_sees_the_canvas_of_training(tiny_detector: Callable[..., DetCLIPv2], image_size: int) -> None:
    predictor = Predictor(tiny_detector(), image_size=image_size)
    photo = _photo(40, 20)
    file = io.BytesIO()
    photo.save(file, "PNG")
    sample = EncodedSample(
        where="here",
        key="k",
        supervision="detection",
        jpeg=file.getvalue(),
        size_hw=(photo.height, photo.width),
        boxes_xyxy=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.long),
        concepts=["dog"],
        caption=None,
    )
    config = SupervisionConfig(batch_size=1, image_size=image_size, flip=0.0)
    canvas = pad_to_canvas([fit(sample, config, rng=random.Random(0)).image], (image_size, image_size))
    trained_on = float_pixels(canvas)
    seen: list[torch.Tensor] = []
    predictor.detector.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))

    predictor(photo, names=["dog"])

    assert torch.equal(float_pixels(seen[0]), trained_on)


def test_a_vocabulary_is_encoded_once_for_each_set_of_weights(
    tiny_detector: Callable[..., DetCLIPv2], tmp_path: Path
) -> None:
    def with_cache() -> Predictor:
        return Predictor(tiny_detector(), image_size=64, prompt="a {}", cache=TextEmbeddingCache(tmp_path / "texts"))

    wanted = with_cache().encode_names(["dog", "owl"])
    for number_of_files in (1, 1):
        predictor = with_cache()
        predictor.set_vocabulary(["dog", "owl"])
        assert predictor.vocabulary is not None
        torch.testing.assert_close(predictor.vocabulary.embeddings, wanted, atol=1e-6, rtol=0)
        assert len(list((tmp_path / "texts").rglob("*.safetensors"))) == number_of_files
