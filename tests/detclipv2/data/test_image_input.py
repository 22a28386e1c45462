import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from detclipv2.data.image_input import image_pixels, is_image, pixels_of_each

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
RGB = pil_to_tensor(Image.fromarray(PIXELS))


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_the_same_image_in_every_form(tmp_path: Path) -> None:
    content = png(Image.fromarray(PIXELS))
    path = tmp_path / "x.png"
    path.write_bytes(content)
    opaque = np.dstack([PIXELS, np.full((5, 7, 1), 255, np.uint8)])

    for image in (path, str(path), content, Image.open(path), Image.fromarray(PIXELS), PIXELS, opaque):
        assert is_image(image)
        assert torch.equal(image_pixels(image), RGB)
    assert torch.equal(image_pixels(PIXELS[..., 0]), RGB[:1].expand(3, -1, -1))
    assert torch.equal(image_pixels(PIXELS[..., :1]), RGB[:1].expand(3, -1, -1))
    assert torch.equal(image_pixels(PIXELS[..., ::-1]), RGB.flip(0)), "a view with a negative stride"


def test_an_array_and_an_image_follow_one_rule() -> None:
    grey = np.array([[0, 128, 40_000, 65_535]], np.uint16)
    assert image_pixels(grey)[0].tolist() == image_pixels(Image.fromarray(grey))[0].tolist() == [[0, 0, 156, 255]]
    assert image_pixels(np.stack([grey] * 3, axis=-1))[2].tolist() == [[0, 0, 156, 255]]
    assert image_pixels(np.array([[0.0, 0.5, 1.0]]))[1].tolist() == [[0, 128, 255]]
    assert image_pixels(np.array([[True, False]]))[1].tolist() == [[255, 0]]
    half = np.array([[[10, 20, 30, 0], [0, 0, 0, 255]]], np.uint8)
    assert image_pixels(half)[:, 0].T.tolist() == image_pixels(Image.fromarray(half))[:, 0].T.tolist()
    assert image_pixels(half)[:, 0].T.tolist() == [[255, 255, 255], [0, 0, 0]], "transparent is white"


def test_the_callers_image_is_left_as_it_is() -> None:
    image = Image.fromarray(PIXELS)
    image.getexif()[0x0112] = 6
    assert image_pixels(image).shape == (3, 7, 5)
    assert image_pixels(image).shape == (3, 7, 5)
    assert image.size == (7, 5)


def test_several_images_one_at_a_time() -> None:
    drawn: list[int] = []

    def images() -> Any:
        for position in range(3):
            drawn.append(position)
            yield PIXELS

    found = pixels_of_each(images())
    assert torch.equal(next(found), RGB)
    assert drawn == [0]
    assert len(list(found)) == 2
    assert not is_image(np.stack([PIXELS, PIXELS]))
    assert len(list(pixels_of_each(np.stack([PIXELS, PIXELS])))) == 2
    with pytest.raises(ValueError, match="image 2 of 2: an image is a path, .*, not list"):
        list(pixels_of_each([PIXELS, [PIXELS]]))  # type: ignore[list-item]
    with pytest.raises(ValueError, match="image 2: an image is a path, .*, not int"):
        list(pixels_of_each(iter([PIXELS, 3])))  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("https://example.org/a.jpg", "'https://example.org/a.jpg' is a URL: download it first"),
        ("data:image/png;base64,AA", "is a URL: download it first"),
        ("no/such.jpg", "no/such.jpg cannot be read as an image: No such file"),
        (Path("/"), "/ cannot be read as an image: Is a directory"),
        (b"", "the image cannot be read: no image of a known format: it is empty"),
        (b"\x00\x00\x00\x18ftypheic", "it is HEIC, so convert it to JPEG"),
        (torch.zeros(3, 4, 4), r"not a tensor \(3, 4, 4\): give tensor.permute\(1, 2, 0\).numpy\(\)"),
        (None, "not NoneType"),
        (np.zeros((3, 40, 50), np.uint8), r"not \(3, 40, 50\), so give array.transpose\(1, 2, 0\)"),
        (np.zeros((4, 4, 2), np.uint8), r"an array of an image is .*, not \(4, 4, 2\)"),
        (np.zeros(4, np.uint8), r"not \(4,\)"),
        (np.zeros((0, 4), np.uint8), r"an array \(0, 4\) of uint8 holds no pixels"),
        (np.array([["a"]]), "of <U1 holds no pixels"),
        (np.array([[-1, 3]]), r"pixels from -1 to 3: scale them to 0..255"),
        (np.array([[0.5, np.nan]]), "1 pixels are not finite"),
        (np.array([[0.0, 256.0]]), r"pixels from 0 to 256: scale them to 0..255"),
        (Image.new("RGB", (0, 5)), "0 x 5 pixels are none"),
    ],
)
def test_what_is_no_image(image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        image_pixels(image)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("images", [{PIXELS.tobytes()}, {1: PIXELS}, None, 3])
def test_what_has_no_order(images: Any) -> None:
    with pytest.raises(ValueError, match="or a list of those, not"):
        list(pixels_of_each(images))
