"""What is stored of an image, beside what img2dataset stores."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.fetch.drop_reasons import ImageError
from pipelines.fetch.image_resizer import ImageResizer

PHOTOS = Path(__file__).parents[4] / "shared" / "data" / "raccoon"
RESIZER = ImageResizer(image_size_px=40, encode_quality=95, max_pixels=1_000_000)


@pytest.fixture(scope="module")
def by_img2dataset():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks the network for its newest version
        from img2dataset.resizer import Resizer

    return Resizer(image_size=40, resize_mode="keep_ratio", resize_only_if_bigger=True, encode_quality=95)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
@pytest.mark.parametrize("size", [(30, 20), (40, 40), (79, 41), (41, 79), (79, 79), (60, 333), (123, 50), (75, 45)])
def test_the_same_bytes_as_img2dataset(by_img2dataset, size, mode):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).convert(mode)
    stream = io.BytesIO()
    image.save(stream, "JPEG" if mode in ("RGB", "L") else "PNG")
    stored = RESIZER(stream.getvalue())
    jpeg, *sizes, error = by_img2dataset(stream)
    assert error is None
    assert stored.jpeg == jpeg
    assert [stored.width, stored.height, stored.original_width, stored.original_height] == sizes


@pytest.mark.parametrize("factor", [2, 3.7, 4, 6, 8, 11])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_decoded_at_a_fraction_of_its_size_looks_the_same(by_img2dataset, factor, mode):
    """Decoding leaves out the frequencies that shrinking would average away."""
    rng = np.random.default_rng(0)
    pixels = Image.fromarray(rng.integers(0, 256, (8, 11, 3), dtype=np.uint8)).convert(mode)
    size = (round(55 * factor), round(40 * factor))
    stream = io.BytesIO()
    pixels.resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=95)
    stored = RESIZER(stream.getvalue())
    jpeg, *sizes, _ = by_img2dataset(stream)
    assert [stored.width, stored.height, stored.original_width, stored.original_height] == sizes
    ours, theirs = (np.asarray(Image.open(io.BytesIO(content)), np.float64) for content in (stored.jpeg, jpeg))
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).mean() < 3, "of 255"


def test_the_hash_of_a_photo_does_not_depend_on_its_size():
    paths = sorted(PHOTOS.rglob("*.jpg"))[:40]
    if not paths:
        pytest.skip("no photos at hand")
    for path in paths:
        hashes = {
            int(ImageResizer(image_size_px=size, encode_quality=95, max_pixels=10**8)(path.read_bytes()).phash, 16)
            for size in (200, 320, 10_000)
        }
        assert max((a ^ b).bit_count() for a in hashes for b in hashes) <= 4, path


def test_a_somewhat_broken_jpeg_is_decoded_without_a_word(capfd):
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "JPEG")
    content = bytearray(stream.getvalue())
    content[1000:1100] = bytes(100)
    assert RESIZER(bytes(content)).original_width == 60
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("content", "slug"),
    [(b"", "not_an_image"), (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not_an_image"), (b"\xff\xd8", "not_an_image")],
)
def test_an_error_has_its_slug(content, slug):
    with pytest.raises(ImageError) as caught:
        RESIZER(content)
    assert caught.value.slug == slug
    assert str(caught.value).startswith(f"{slug}: ")
