"""Pictures as the web has them, before and after img2dataset's resizer."""

import io
import threading
from collections.abc import Callable

import imagehash
from PIL import Image, ImageOps

# JPEG, width, height, original width, original height, error: all None but the error, or the error alone None.
ResizerResult = tuple[bytes | None, int | None, int | None, int | None, int | None, str | None]
Resizer = Callable[[io.BytesIO], ResizerResult]

_EXIF_ORIENTATION = 0x0112
# img2dataset's Resizer redirects the file descriptors 1 and 2 of the process while it works: one picture at a time.
_LOCK = threading.Lock()


class GuardedResizer:
    """img2dataset's ``Resizer`` behind a look at what it would silently get wrong.

    OpenCV decodes half a JPEG without a word, decodes any number of pixels, ignores the orientation, and clips 16-bit
    pictures to white. So the header is read first, and whatever is not an upright 8-bit JPEG is decoded by Pillow.
    """

    def __init__(self, resizer: Resizer, *, max_pixels: int) -> None:
        self._resizer = resizer
        self._max_pixels = max_pixels

    def __call__(self, stream: io.BytesIO, _boxes: object = None) -> ResizerResult:
        """What ``Resizer`` returns; its error begins with ``too_many_pixels`` or ``truncated`` where that is why."""
        try:
            stream = self._upright_8_bit(stream)
        except Image.DecompressionBombError as error:
            return None, None, None, None, None, f"too_many_pixels: {error}"
        except Exception as error:
            return None, None, None, None, None, str(error)
        with _LOCK:
            return self._resizer(stream)

    def _upright_8_bit(self, stream: io.BytesIO) -> io.BytesIO:
        content = stream.getvalue()
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > self._max_pixels:
                raise ValueError(f"too_many_pixels: {image.width}x{image.height}")
            if image.format == "JPEG":
                # A whole JPEG ends after its last scan; an embedded thumbnail has an end mark of its own before that.
                if content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda"):
                    raise ValueError("truncated: a JPEG without its end mark")
                if image.mode in ("L", "RGB") and image.getexif().get(_EXIF_ORIENTATION, 1) == 1:
                    return stream
            return _as_png(image)


def _as_png(image: Image.Image) -> io.BytesIO:
    try:
        image.load()
    except OSError as error:
        raise ValueError(f"{'truncated' if 'truncated' in str(error) else 'not_an_image'}: {error}") from error
    if image.mode.startswith("I"):  # 16 bit grey
        image = image.point(lambda value: value / 256).convert("L")
    image = ImageOps.exif_transpose(image)
    has_alpha = image.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in image.info
    buffer = io.BytesIO()
    image.convert("RGBA" if has_alpha else "RGB").save(buffer, format="PNG", compress_level=0)
    buffer.seek(0)
    return buffer


def phash(jpeg: bytes) -> str:
    """64-bit perceptual hash of an encoded picture, as 16 hex digits."""
    with Image.open(io.BytesIO(jpeg)) as image:
        return str(imagehash.phash(image))
