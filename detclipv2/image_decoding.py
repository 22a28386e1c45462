"""Image decoding: image files and PIL images of any mode as upright 8-bit RGB.

The only place of the product that opens image files, so that an image looks the same wherever it enters: in training data,
as a held-out image, in evaluation, in prediction. It needs PIL and NumPy alone, since packages without torch import it.

- Formats are named, since Pillow opens more than is safe: EPS would run Ghostscript on a stranger's code, and ICO decodes
  before anyone can ask for its size. HEIC is read where the program registered pillow-heif.
- Files are regular ones. Their size, the announced number of pixels, and a JPEG's number of scans are checked before anything
  is decoded.
- Of an animation it is the first frame. EXIF's orientation is applied.
- What is transparent lies on white, whatever colour it hides.
- Of 16 bits the upper eight stay, as Pillow, libpng and OpenCV have it for colours; `to_8_bits` has all rules for numbers.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, UnidentifiedImageError

from detclipv2.foreign_files import opened_regular
from detclipv2.jpeg_scans import count_scans

# Of images on the web.
WEB_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "JPEG2000")
# Of a user's own files.
FORMATS = (*WEB_FORMATS, "PPM", "HEIF")
MAX_PIXELS = 178_956_970  # Pillow's own limit
MAX_FILE_BYTES = 1 << 30  # as many pixels of three times 16 bits, not compressed
MAX_JPEG_SIDE_PX = 65_500  # libjpeg's own limit, reading and writing
EXIF_ORIENTATION = 0x0112

# A scan takes 0.1 s where the image has 64 million pixels.
_MAX_SCANS = 100
_MAX_SCANNED_PIXELS = _MAX_SCANS * 64_000_000
# How an image is to be turned; Exif 2.32, section 4.6.4.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Where Pillow finds the orientation.
_ORIENTED_BY = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
_BAND_VALUES = 1 << 20  # converted at a time
_ALPHA_MODES = ("LA", "PA", "RGBA", "RGBa", "La")
# What people take for images, by the first bytes of the files.
_OTHER_FILES = (
    (b"%PDF", "a PDF"),
    (b"%!PS", "PostScript"),
    (b"8BPS", "a Photoshop file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"PK\x03\x04", "a zip archive"),
    (b"<", "HTML, XML or SVG"),
)

Reason = Literal["too_large", "too_many_pixels", "too_many_scans", "too_much_memory", "truncated", "not_an_image"]


class ImageDecodingError(ValueError):
    """An image that cannot be used.

    Attributes:
        reason: the kind of failure.
    """

    def __init__(self, reason: Reason, detail: object) -> None:
        super().__init__(str(detail).split(" <_io.")[0] or type(detail).__name__)  # no addresses of objects
        self.reason = reason


def image_suffixes() -> frozenset[str]:
    """Endings of file names of the formats that are read, in lower case, with their dot: .jpg, .tiff, .avif, ..."""
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)


def decode_rgb(
    source: bytes | str | Path, *, formats: tuple[str, ...] = FORMATS, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """An image file as upright 8-bit RGB.

    Args:
        source: the content of a file, or its path.
        formats: Pillow's names of those that are opened.
        max_pixels: images that announce more are not decoded.

    Raises:
        ImageDecodingError: there is no such file, it is no image, it is broken, or it is too large.
    """
    with open_image(source, formats=formats, max_pixels=max_pixels) as image:
        return upright_rgb(image)


def open_image(
    source: bytes | str | Path, *, formats: tuple[str, ...] = FORMATS, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """An image file whose header alone was decoded; arguments and errors are those of `decode_rgb`."""
    content = source if isinstance(source, bytes) else read_image_file(source)
    Image.init()  # Pillow loads no plugin on demand where it is told which formats to expect
    known = tuple(name for name in formats if name in Image.OPEN)
    try:
        image = Image.open(io.BytesIO(content), formats=known)
    except Image.DecompressionBombError as error:
        raise ImageDecodingError("too_many_pixels", error) from error
    except UnidentifiedImageError as error:
        raise ImageDecodingError("not_an_image", f"no image of a known format{_guess(content)}") from error
    except MemoryError as error:
        raise _too_much_memory() from error
    except Exception as error:  # Pillow's plug-ins raise whatever a broken file leads them to
        raise ImageDecodingError("not_an_image", error) from error
    num_pixels = image.width * image.height
    if num_pixels > max_pixels:
        raise ImageDecodingError("too_many_pixels", f"{image.width}x{image.height}, more than {max_pixels} pixels")
    if image.format in ("JPEG", "MPO"):
        max_scans = min(_MAX_SCANS, _MAX_SCANNED_PIXELS // max(1, num_pixels))
        if count_scans(content) > max_scans:
            raise ImageDecodingError("too_many_scans", f"a JPEG of more than {max_scans} scans: save it anew")
    return image


def read_image_file(path: str | Path) -> bytes:
    """The content of a file, which no pipe or device can keep waiting.

    Raises:
        ImageDecodingError: it cannot be read, it is no regular file, or it has more than ``MAX_FILE_BYTES``.
    """
    try:
        with opened_regular(path) as (file, num_bytes):
            if num_bytes <= MAX_FILE_BYTES:
                return file.read()
    except OSError as error:
        raise ImageDecodingError("not_an_image", error.strerror or error) from error
    except ValueError as error:  # no regular file, or a name that no file can have
        raise ImageDecodingError("not_an_image", error) from error
    raise ImageDecodingError("too_large", f"{num_bytes} bytes, more than {MAX_FILE_BYTES}")


def upright_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as upright 8-bit RGB; it may be ``image`` itself, which is never changed.

    Raises:
        ImageDecodingError: it has no pixels, its file is broken, or its pixels are numbers that are no grey values.
    """
    if 0 in image.size:
        raise ImageDecodingError("not_an_image", f"{image.width} x {image.height} pixels are none")
    try:
        image.load()
    except MemoryError as error:
        raise _too_much_memory() from error
    except OSError as error:
        raise ImageDecodingError("truncated" if "truncated" in str(error) else "not_an_image", error) from error
    except Exception as error:
        raise ImageDecodingError("not_an_image", error) from error
    try:
        turn = _TURNS.get(image.getexif().get(EXIF_ORIENTATION, 1))
        rgb = _rgb(image)
        return rgb if turn is None else _turned(rgb, turn)
    except ImageDecodingError:
        raise
    except MemoryError as error:
        raise _too_much_memory() from error
    except Exception as error:
        raise ImageDecodingError("not_an_image", error) from error


def to_8_bits(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Numbers of any type as 8-bit values, by one rule for files, PIL images and arrays.

    - 8 bits stay, of 16 bits (unsigned) the upper eight do; of booleans True is white.
    - Other whole numbers stay where all are in 0..255; where all are in 0..65535 they are taken for 16 bits.
    - Floats are multiplied by 255 where all are in 0..1, and rounded where all are in 0..255.

    Raises:
        ImageDecodingError: they are anything else, or not finite.
    """
    kind, num_bytes = values.dtype.kind, values.dtype.itemsize
    if kind not in "biuf" or not values.size:
        raise ImageDecodingError("not_an_image", f"an array {values.shape} of {values.dtype} holds no pixels")
    if kind == "b":
        return np.where(values, np.uint8(255), np.uint8(0))
    if kind == "u" and num_bytes <= 2:
        return values if num_bytes == 1 else _in_bands(values, lambda band: band >> 8)
    low, high = values.min(), values.max()  # NaN where one is
    if kind == "f" and not (np.isfinite(low) and np.isfinite(high)):
        bad = int((~np.isfinite(values)).sum())
        raise ImageDecodingError("not_an_image", f"{bad} pixels are not finite: replace them by numbers in 0..255")
    if low < 0 or high > (255 if kind == "f" else 65_535):
        raise ImageDecodingError("not_an_image", f"pixels from {low:g} to {high:g}: scale them to 0..255")
    if kind == "f":
        return _in_bands(values, lambda band: np.rint(band * 255 if high <= 1 else band))
    return _in_bands(values, lambda band: band if high <= 255 else band >> 8)


def _in_bands(
    values: npt.NDArray[Any], convert: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
) -> npt.NDArray[np.uint8]:
    """What ``convert`` makes of an array, some rows at a time, so that numbers in between take no memory to speak of."""
    found = np.empty(values.shape, np.uint8)
    num_rows = max(1, _BAND_VALUES // max(1, values[:1].size))
    for start in range(0, len(values), num_rows):
        found[start : start + num_rows] = convert(values[start : start + num_rows])
    return found


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        grey = to_8_bits(values)
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):  # a 16-bit PNG's
            grey[values == transparent] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None  # it is not done in place
        return converted
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        ground = Image.new("RGB", image.size, "white")
        ground.paste(rgba, mask=rgba)  # alpha / 255 * colour + 255 - alpha, rounded
        return ground
    return image if image.mode == "RGB" else image.convert("RGB")


def _turned(image: Image.Image, turn: Image.Transpose) -> Image.Image:
    """An image that is upright now, and says so."""
    turned = image.transpose(turn)
    for name in _ORIENTED_BY:
        turned.info.pop(name, None)
    return turned


def _too_much_memory() -> ImageDecodingError:
    return ImageDecodingError("too_much_memory", "it takes more memory than there is")


def _guess(content: bytes) -> str:
    """What the file is instead, to be put behind a message."""
    head = content[:132]
    if not head:
        return ": it is empty"
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"msf1"):
        return ": it is HEIC, so convert it to JPEG, or register pillow-heif where you call from Python"
    if head[128:] == b"DICM":
        return ": it is DICOM, so convert it to PNG or JPEG"
    names = [name for start, name in _OTHER_FILES if head.lstrip().startswith(start)]
    return f": it is {names[0]}, so convert it to PNG or JPEG" if names else ""
