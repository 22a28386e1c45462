import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detclipv2.image_decoding import ImageDecodingError, decode_rgb, open_image
from detclipv2.jpeg_scans import count_scans


def jpeg(mode: str = "RGB", **options: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(stream, "JPEG", **options)
    return stream.getvalue()


def with_scans(content: bytes, count: int) -> bytes:
    """A progressive JPEG whose last scan is there so many times more."""
    return content[:-2] + content[content.rfind(b"\xff\xda") : -2] * count + b"\xff\xd9"


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (jpeg(), 1),
        (jpeg("L"), 1),
        (jpeg("CMYK"), 1),
        (jpeg(progressive=True), 10),
        (jpeg("L", progressive=True), 6),
        (jpeg(restart_marker_blocks=1), 1),
        (jpeg(comment=b"\xff\xda" * 500), 1),
        (jpeg(progressive=True, comment=b"\xff\xda" * 500), 10),
        (jpeg(progressive=True) + jpeg(progressive=True), 10),
        (with_scans(jpeg(progressive=True), 300), 310),
        (b"\xff\xd8", 0),
    ],
)
def test_scans_are_counted(content: bytes, wanted: int) -> None:
    assert count_scans(content) == wanted


@given(st.binary(max_size=300))
def test_any_bytes_are_counted(content: bytes) -> None:
    assert count_scans(b"\xff\xd8" + content) <= len(content)


def test_many_scans_have_a_reason() -> None:
    assert decode_rgb(with_scans(jpeg(progressive=True), 90)).size == (64, 40)
    with pytest.raises(ImageDecodingError, match="a JPEG of more than 100 scans: save it anew") as caught:
        open_image(with_scans(jpeg(progressive=True), 91))
    assert caught.value.reason == "too_many_scans"
