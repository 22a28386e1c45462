import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detclipv2.image_decoding import (
    MAX_PIXELS,
    ImageDecodingError,
    decode_rgb,
    open_image,
    to_8_bits,
    upright_rgb,
)

ORIENTATION = 0x0112


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png(width: int, height: int, *, depth: int, colour: int, rows: bytes, transparent: bytes = b"") -> bytes:
    """A PNG of a kind that Pillow does not write; ``rows`` have their filter bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    key = chunk(b"tRNS", transparent) if transparent else b""
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + key + body


def rgb(image: Image.Image | bytes) -> list[list[list[int]]]:
    found = decode_rgb(image) if isinstance(image, bytes) else upright_rgb(image)
    assert found.mode == "RGB"
    return np.asarray(found).tolist()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_opaque_modes_are_what_pillow_makes_of_them(mode: str) -> None:
    image = Image.effect_noise((7, 5), 80).convert("RGB").convert(mode)

    assert rgb(image) == np.asarray(image.convert("RGB")).tolist()


@pytest.mark.parametrize("mode", ["LA", "PA", "RGBA", "RGBa", "La"])
def test_alpha_lies_on_white(mode: str) -> None:
    grey = np.array([[[9, 9, 9, 0], [0, 0, 0, 255], [0, 0, 0, 127], [100, 100, 100, 51]]], np.uint8)
    image = Image.fromarray(grey)
    if mode in ("LA", "La"):
        image = image.convert("LA")
    if mode == "PA":
        image = Image.fromarray(grey[..., :3]).convert("P", palette=Image.Palette.ADAPTIVE).convert("PA")
        image.putalpha(Image.fromarray(grey[..., 3]))
    elif image.mode != mode:
        image = image.convert(mode)
    assert image.mode == mode

    # 255 - alpha + alpha / 255 * value; premultiplied ones lose up to a level
    found = np.array(rgb(image))[0]
    assert (np.abs(found - [[255] * 3, [0] * 3, [128] * 3, [224] * 3]) <= 1).all()


def test_on_white_for_every_value_and_alpha() -> None:
    alpha, value = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    found = np.array(rgb(Image.fromarray(np.dstack([value, value, value, alpha]))))

    assert (found == np.rint(alpha / 255 * value + 255 - alpha)[..., None]).all()


def test_transparency_without_an_alpha_channel() -> None:
    key = struct.pack(">H", 40_000)
    grey = png(3, 1, depth=16, colour=0, rows=b"\0" + struct.pack(">3H", 0, 40_000, 65_535), transparent=key)
    assert rgb(grey) == [[[0] * 3, [255] * 3, [255] * 3]]
    bits = png(8, 1, depth=1, colour=0, rows=b"\0\xaa", transparent=struct.pack(">H", 0))
    assert rgb(bits) == [[[255] * 3] * 8]
    colours = png(2, 1, depth=8, colour=2, rows=b"\0\x01\x02\x03\x04\x05\x06", transparent=struct.pack(">3H", 1, 2, 3))
    assert rgb(colours) == [[[255, 255, 255], [4, 5, 6]]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert rgb(encoded(palette, "PNG", transparency=b"\x00\xff")) == [[[255, 255, 255], [40, 50, 60]]]
    assert rgb(encoded(palette, "GIF", transparency=0)) == [[[255, 255, 255], [40, 50, 60]]]


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I;16N"])
def test_16_bits_become_the_upper_8(mode: str) -> None:
    values = np.array([[0, 255, 256, 383, 40_000, 65_535]])
    image = Image.frombytes(mode, (6, 1), values.astype(">u2" if mode == "I;16B" else "<u2").tobytes())

    assert rgb(image) == [[[0] * 3, [0] * 3, [1] * 3, [1] * 3, [156] * 3, [255] * 3]]


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_files_of_16_bits(format: str) -> None:
    content = encoded(Image.fromarray(np.array([[0, 40_000, 65_535]], np.uint16)), format)

    assert rgb(content) == [[[0] * 3, [156] * 3, [255] * 3]]
    grey_alpha = png(2, 1, depth=16, colour=4, rows=b"\0" + struct.pack(">4H", 40_000, 65_535, 0, 0))
    assert rgb(grey_alpha) == [[[156] * 3, [255] * 3]]


def test_float_and_32_bit_tiffs() -> None:
    for values in ([0.0, 0.5, 1.0], [0.0, 127.8, 255.0]):
        assert rgb(encoded(Image.fromarray(np.array([values], np.float32)), "TIFF")) == [
            [[0] * 3, [128] * 3, [255] * 3]
        ]
    for whole in ([0, 128, 255], [0, 32_768, 65_535]):
        assert rgb(encoded(Image.fromarray(np.array([whole], np.int32)), "TIFF")) == [[[0] * 3, [128] * 3, [255] * 3]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([0.0, np.nan, -np.inf]), "2 pixels are not finite: replace them"),
        (np.array([-3, 4000]), r"pixels from -3 to 4000: scale them to 0..255"),
        (np.array([0.0, 300.0]), r"pixels from 0 to 300: scale"),
        (np.array([0, 65_536]), r"pixels from 0 to 65536: scale"),
        (np.array(["a"]), "holds no pixels"),
        (np.array([1j]), "holds no pixels"),
        (np.array([], np.uint8), r"\(0,\) of uint8 holds no pixels"),
    ],
)
def test_numbers_that_are_no_grey_values(values: np.ndarray, message: str) -> None:
    with pytest.raises(ImageDecodingError, match=message):
        to_8_bits(values)


@given(st.lists(st.integers(0, 65_535), min_size=1), st.sampled_from([np.uint16, np.int32, np.int64, np.uint32]))
def test_whole_numbers_of_any_type(values: list[int], dtype: type) -> None:
    found = to_8_bits(np.array(values, dtype))

    assert found.dtype == np.uint8
    is_8_bit = dtype is not np.uint16 and max(values) <= 255
    assert found.tolist() == (values if is_8_bit else [value // 256 for value in values])


def test_lab() -> None:
    lab = Image.new("LAB", (1, 1), (255, 128, 128))
    assert np.array(rgb(lab)).min() >= 250


def test_an_inverted_cmyk_jpeg() -> None:
    """Adobe writes CMYK JPEGs inverted, and so does Pillow."""
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    found = np.array(rgb(encoded(red, "JPEG", quality=95)))
    assert np.abs(found - [255, 0, 0]).max() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16", "F"])
def test_orientation(orientation: int, mode: str) -> None:
    upright = np.array([[1, 2, 3], [4, 5, 6]])
    values = upright * 257 if mode == "I;16" else upright
    image = Image.fromarray(values.astype({"I;16": np.uint16, "F": np.float32}.get(mode, np.uint8)))
    if mode.startswith("RGB"):
        image = image.convert(mode)
    assert image.mode == mode
    image.getexif()[ORIENTATION] = orientation

    turned = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1]}
    turned |= {5: upright.T, 6: upright[::-1].T, 7: upright[::-1, ::-1].T, 8: upright[:, ::-1].T}
    assert np.array(rgb(image))[..., 0].tolist() == turned[orientation].tolist()


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_the_first_frame(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 0, 250))]
    content = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    red, _, blue = np.array(rgb(content)).mean(axis=(0, 1))
    assert red > 200 > 50 > blue


@pytest.mark.parametrize("format", ["AVIF", "WEBP", "BMP", "JPEG2000", "PPM", "TIFF", "PNG", "GIF", "MPO", "JPEG"])
def test_formats(format: str) -> None:
    assert decode_rgb(encoded(Image.new("RGB", (9, 8), (200, 10, 10)), format)).size == (9, 8)


@pytest.mark.parametrize("format", ["EPS", "ICO", "TGA", "PCX", "SGI", "ICNS", "PDF"])
def test_formats_that_are_not_opened(format: str) -> None:
    with pytest.raises(ImageDecodingError, match="no image of a known format"):
        decode_rgb(encoded(Image.new("RGB", (16, 16)), format))


def test_announced_pixels_are_checked_before_decoding() -> None:
    small = png(1000, 1000, depth=8, colour=0, rows=b"")
    with pytest.raises(ImageDecodingError, match="1000x1000, more than 999999 pixels") as caught:
        open_image(small, max_pixels=999_999)
    assert caught.value.reason == "too_many_pixels"
    bomb = png(60_000, 60_000, depth=8, colour=0, rows=b"")
    with pytest.raises(ImageDecodingError, match="decompression bomb") as caught:
        decode_rgb(bomb)
    assert caught.value.reason == "too_many_pixels"
    assert 2 * (Image.MAX_IMAGE_PIXELS or 0) == MAX_PIXELS, "no image lies between the two"


def test_reasons(tmp_path: Path) -> None:
    whole = encoded(Image.effect_noise((64, 64), 80), "JPEG")
    for content, reason in ((whole[:-400], "truncated"), (b"GIF89a", "not_an_image"), (b"text", "not_an_image")):
        with pytest.raises(ImageDecodingError) as caught:
            decode_rgb(content)
        assert caught.value.reason == reason
    with pytest.raises(ImageDecodingError, match="^Is a directory$"):
        decode_rgb(tmp_path)
    with pytest.raises(ImageDecodingError, match="^No such file or directory$"):
        decode_rgb(tmp_path / "none.png")
    (tmp_path / "x.heic").write_bytes(b"\x00\x00\x00\x18ftypheic")
    with pytest.raises(ImageDecodingError, match="it is HEIC, so convert it to JPEG"):
        decode_rgb(tmp_path / "x.heic")


SAMPLES = [
    encoded(Image.linear_gradient("L").resize((24, 16)).convert(mode), format)
    for mode, format in [
        ("RGB", "JPEG"),
        ("CMYK", "JPEG"),
        ("RGBA", "PNG"),
        ("P", "GIF"),
        ("RGB", "WEBP"),
        ("RGB", "AVIF"),
        ("RGB", "BMP"),
        ("F", "TIFF"),
        ("RGB", "TIFF"),
        ("RGB", "JPEG2000"),
        ("L", "PPM"),
    ]
]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_files_end_in_one_error(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(SAMPLES)))
    for _ in range(data.draw(st.integers(0, 8))):
        content[data.draw(st.integers(0, min(len(content), 300) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    try:
        mode, message = decode_rgb(bytes(content), max_pixels=1_000_000).mode, "none"
    except ImageDecodingError as error:
        mode, message = "RGB", str(error)
    assert mode == "RGB"
    assert message and "object at 0x" not in message


@given(st.binary(max_size=200))
def test_random_bytes_end_in_one_error(content: bytes) -> None:
    with pytest.raises(ImageDecodingError):
        decode_rgb(content)


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
@pytest.mark.parametrize(
    ("mode", "options"),
    [("RGBA", {}), ("LA", {}), ("RGB", {"transparency": (0, 0, 0)}), ("P", {"transparency": 0}), ("I;16", {})],
)
def test_memory_of_transparent_and_deep_images(mode: str, options: dict[str, object], tmp_path: Path) -> None:
    side = 3000
    image = Image.fromarray(np.zeros((side, side), np.uint16)) if mode == "I;16" else Image.new(mode, (side, side))
    image.info["exif"] = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    (tmp_path / "large.png").write_bytes(encoded(image, "PNG", exif=image.info["exif"], **options))
    (tmp_path / "small.png").write_bytes(encoded(image.crop((0, 0, 9, 9)), "PNG", **options))
    code = (
        "import pathlib, sys\n"
        "from detclipv2.image_decoding import decode_rgb\n"
        "def status(name):\n"
        "    lines = pathlib.Path('/proc/self/status').read_text().splitlines()\n"
        "    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))\n"
        "decode_rgb('small.png')\n"
        "before = status('VmRSS')\n"
        "decode_rgb('large.png')\n"
        "print(status('VmHWM') - before)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, text=True, capture_output=True, check=True
    )
    assert 4 * side**2 <= int(found.stdout) < 12.5 * side**2


def test_it_is_light() -> None:
    code = "import sys, detclipv2.image_decoding; print({'torch', 'cv2', 'pyarrow'} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert found.stdout == "set()\n"
