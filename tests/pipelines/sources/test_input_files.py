"""Text, JSON and JPEG files, and the errors that name them."""

import io
from pathlib import Path

import pytest
from PIL import Image

from pipelines.sources.input_files import decode_upright, encode_jpeg, parse_json, read_text


def test_errors_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"\xff")
    for name in ("latin.txt", "none.txt"):
        with pytest.raises(ValueError, match=f"{name} cannot be read: "):
            read_text(tmp_path / name)
    with pytest.raises(ValueError, match="a.json is not JSON: "):
        parse_json("{", path=tmp_path / "a.json")


@pytest.mark.parametrize("length", [0, 4, 200])
def test_a_broken_image_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="cannot be decoded: "):
        decode_upright(encode_jpeg(Image.new("RGB", (8, 6)), quality=90)[:length])


def test_an_image_is_turned_upright_and_rgb() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a quarter turn
    buffer = io.BytesIO()
    Image.new("L", (8, 6)).save(buffer, "JPEG", exif=exif)
    image = decode_upright(buffer.getvalue())

    assert (image.size, image.mode) == ((6, 8), "RGB")
