import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from detclipv2.data.pil_image import upright_rgb

ORIENTATION = 0x0112


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA", "P", "1", "CMYK", "YCbCr", "HSV"])
def test_modes_that_pillow_converts(mode: str) -> None:
    image = Image.effect_noise((7, 5), 80).convert("RGB").convert(mode)

    assert torch.equal(upright_rgb(image), pil_to_tensor(image.convert("RGB")))


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_16_bits_become_8(order: str) -> None:
    values = np.array([[0, 128, 129, 257], [40_000, 65_406, 65_407, 65_535]])
    image = Image.frombytes("I;16" if order == "<u2" else "I;16B", (4, 2), values.astype(order).tobytes())

    # value / 257: 0, 0.498, 0.502, 1, 155.6, 254.498, 254.502, 255
    assert upright_rgb(image).tolist() == [[[0, 0, 1, 1], [156, 254, 255, 255]]] * 3


def test_a_16_bit_png() -> None:
    file = io.BytesIO()
    Image.fromarray(np.array([[0, 65_535]], dtype=np.uint16)).save(file, "PNG")

    assert upright_rgb(Image.open(file)).tolist() == [[[0, 255]]] * 3


@pytest.mark.parametrize("mode", ["RGB", "I;16", "F"])
def test_an_image_is_turned_upright(mode: str) -> None:
    values = np.array([[1, 2, 3], [4, 5, 6]])  # turned by 90 degrees
    if mode == "RGB":
        image = Image.fromarray(values.astype(np.uint8)).convert("RGB")
    else:
        image = Image.fromarray(values.astype(np.float32) if mode == "F" else (values * 257).astype(np.uint16))
    assert image.mode == mode
    image.getexif()[ORIENTATION] = 6  # to be shown turned by 90 degrees clockwise

    assert upright_rgb(image)[0].tolist() == [[4, 1], [5, 2], [6, 3]]


def test_numbers_for_pixels() -> None:
    assert upright_rgb(Image.fromarray(np.array([[0.0, 1.4, 254.6]], dtype=np.float32)))[2].tolist() == [[0, 1, 255]]
    assert upright_rgb(Image.fromarray(np.array([[0, 255]], dtype=np.int32)))[2].tolist() == [[0, 255]]
    with pytest.raises(ValueError, match="2 pixels of the image are not finite"):
        upright_rgb(Image.fromarray(np.array([[0, np.nan, -np.inf]], dtype=np.float32)))
    with pytest.raises(ValueError, match="mode I with pixels from -3 to 4000: scale them to 0..255"):
        upright_rgb(Image.fromarray(np.array([[-3, 4000]], dtype=np.int32)))


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_an_image_without_pixels(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"an image of {size[0]} x {size[1]} pixels has nothing to look at"):
        upright_rgb(Image.new("RGB", size))


def test_what_cannot_be_read() -> None:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 80).save(file, "JPEG")
    with pytest.raises(ValueError, match="the image cannot be read: image file is truncated"):
        upright_rgb(Image.open(io.BytesIO(file.getvalue()[:-400])))
    with pytest.raises(ValueError, match="an image is a PIL image, not ndarray: Image.open"):
        upright_rgb(np.zeros((4, 4, 3), dtype=np.uint8))  # type: ignore[arg-type]
