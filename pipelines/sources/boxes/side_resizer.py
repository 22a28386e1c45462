"""Image resizing of images with boxes: upright JPEGs whose longest side is bounded."""

from dataclasses import dataclass

import imagehash
from PIL import Image

from detclipv2.image_decoding import MAX_JPEG_SIDE_PX, ImageDecodingError, decode_rgb
from pipelines.sources.input_files import encode_jpeg
from schemas.source_images import StoredImage

JPEG_QUALITY = 95


@dataclass(frozen=True, kw_only=True)
class SideResizer:
    """A `schemas.source_images.Resizer`.

    Attributes:
        max_side_px: longer images are made smaller.
        has_phash: whether the perceptual hash, of the image before that, is wanted.
    """

    max_side_px: int
    has_phash: bool = False

    def __call__(self, content: bytes) -> StoredImage:
        """Decode, shrink and encode.

        Raises:
            ImageDecodingError: the image cannot be used.
        """
        image = decode_rgb(content)
        small = _shrink(image, max_side_px=self.max_side_px)
        if max(small.size) > MAX_JPEG_SIDE_PX:
            raise ImageDecodingError("too_many_pixels", f"a JPEG has no side of {max(small.size)} pixels")
        return StoredImage(
            jpeg=encode_jpeg(small, quality=JPEG_QUALITY),
            width=small.width,
            height=small.height,
            original_width=image.width,
            original_height=image.height,
            phash=str(imagehash.phash(image)) if self.has_phash else None,
        )


def _shrink(image: Image.Image, *, max_side_px: int) -> Image.Image:
    scale = max_side_px / max(image.size)
    if scale >= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)
