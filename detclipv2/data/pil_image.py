"""PIL images of any mode as upright 8-bit RGB tensors."""

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as F

_NUMBERS = ("I", "F")  # one 32-bit number a pixel; Pillow's own conversions take it as 0 to 255


def upright_rgb(image: Image.Image) -> Tensor:
    """Pixels [3, H, W] (uint8) of an image of any mode, turned upright where its EXIF data say so.

    16-bit grey becomes 8-bit; transparency is dropped, as in training.

    Raises:
        ValueError: it is no PIL image, has no pixels, cannot be read, or has numbers for pixels that are not in 0..255.
    """
    if not isinstance(image, Image.Image):
        raise ValueError(
            f"an image is a PIL image, not {type(image).__name__}: Image.open(path), Image.fromarray(array)"
        )
    if 0 in image.size:
        raise ValueError(f"an image of {image.width} x {image.height} pixels has nothing to look at")
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):
            return _grey((np.asarray(upright).astype(np.uint32) + 128) // 257)
        if upright.mode in _NUMBERS:
            return _grey(_checked_numbers(np.asarray(upright), upright.mode))
        return F.pil_to_tensor(upright.convert("RGB"))
    except OSError as error:
        raise ValueError(f"the image cannot be read: {error}") from error


def _checked_numbers(values: np.ndarray, mode: str) -> np.ndarray:
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} pixels of the image are not finite")
    if values.min() < 0 or values.max() > 255:
        raise ValueError(
            f"an image of mode {mode} with pixels from {values.min():g} to {values.max():g}: scale them to 0..255"
        )
    return values.round()


def _grey(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.uint8)).expand(3, -1, -1)
