"""Images as callers have them (a path, the bytes of a file, PIL, NumPy) as upright 8-bit RGB tensors."""

import re
from collections.abc import Iterable, Iterator, Mapping, Set, Sized
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from detclipv2.image_decoding import decode_rgb, to_8_bits, upright_rgb

ImageInput: TypeAlias = str | Path | bytes | Image.Image | npt.NDArray[Any]

_URL = re.compile(r"[a-z][a-z0-9+.-]+://|data:", re.IGNORECASE)
_WANTED = "an image is a path, the bytes of an image file, a PIL image or a NumPy array"


def image_pixels(image: object) -> Tensor:
    """Pixels [3, H, W] (uint8) of an `ImageInput` of any mode, turned upright where its EXIF data say so.

    `detclipv2.image_decoding` has the rules; what is transparent lies on white. An array is grey (H, W) or (H, W, 1), RGB
    (H, W, 3) (OpenCV's are BGR: give ``array[..., ::-1]``) or RGBA (H, W, 4); `detclipv2.image_decoding.to_8_bits` says what
    becomes of numbers that are not uint8.

    Raises:
        ValueError: it is none of these, has no pixels, cannot be read, or has numbers for pixels that are no grey values.
    """
    if isinstance(image, str | Path):
        if _URL.match(str(image)):
            raise ValueError(f"{str(image)[:80]!r} is a URL: download it first, and give the path of the file")
        try:
            return F.pil_to_tensor(decode_rgb(image))
        except ValueError as error:
            raise ValueError(f"{image} cannot be read as an image: {error}") from error
    if isinstance(image, np.ndarray):
        image = Image.fromarray(_8_bit_array(image))
    try:
        if isinstance(image, bytes):
            return F.pil_to_tensor(decode_rgb(image))
        if isinstance(image, Image.Image):
            return F.pil_to_tensor(upright_rgb(image))
    except ValueError as error:
        raise ValueError(f"the image cannot be read: {error}") from error
    if isinstance(image, Tensor):
        raise ValueError(f"{_WANTED}, not a tensor {tuple(image.shape)}: give tensor.permute(1, 2, 0).numpy()")
    raise ValueError(f"{_WANTED}, not {type(image).__name__}")


def is_image(image: object) -> bool:
    """Whether this is one image, rather than several."""
    if isinstance(image, np.ndarray):
        return image.ndim != 4  # an array of images is several
    return isinstance(image, str | Path | bytes | Image.Image | Tensor)


def pixels_of_each(images: object) -> Iterator[Tensor]:
    """The pixels of images one after the other, as they are asked for.

    Raises:
        ValueError: there is no order in them, or `image_pixels` cannot read one; the message tells which.
    """
    if isinstance(images, Set | Mapping) or not isinstance(images, Iterable):
        raise ValueError(f"{_WANTED}, or a list of those, not {type(images).__name__}")
    of_all = f" of {len(images)}" if isinstance(images, Sized) else ""
    for position, image in enumerate(images, start=1):
        try:
            yield image_pixels(image)
        except ValueError as error:
            raise ValueError(f"image {position}{of_all}: {error}") from error


def _8_bit_array(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Grey (H, W), RGB (H, W, 3) or RGBA (H, W, 4)."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        turn = ", so give array.transpose(1, 2, 0)" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ""
        raise ValueError(f"an array of an image is (H, W), (H, W, 3) or (H, W, 4), not {array.shape}{turn}")
    return np.ascontiguousarray(to_8_bits(array))
