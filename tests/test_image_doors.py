"""Images of every kind at every door: a file looks the same as a pair, with boxes, held out, in evaluation and in prediction."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from detclipv2.data.image_input import image_pixels
from detclipv2.drawing import draw_detections
from detclipv2.image_decoding import ImageDecodingError, decode_rgb
from pipelines.fetch.drop_reasons import DROP_REASONS, ImageError
from pipelines.fetch.image_resizer import ImageResizer
from pipelines.inspect.samples import ShownSample
from pipelines.inspect.show import sample_cell
from pipelines.inspect.verify import read_sample
from pipelines.sources.boxes.coco import Coco
from pipelines.sources.boxes.coco_validation import CocoValidation
from pipelines.sources.held_out_images import hash_images
from pipelines.storage.tars import TarSample
from schemas.source_images import BoxedImage
from schemas.training import TrainingSample

Pixels = npt.NDArray[np.uint8]
WIDTH, HEIGHT = 64, 48
RESIZER = ImageResizer(image_size_px=10_000, encode_quality=95, max_pixels=1_000_000)


def gradient() -> Pixels:
    """Smooth RGB, of which JPEG loses next to nothing."""
    x, y = np.meshgrid(np.linspace(20, 200, WIDTH), np.linspace(30, 150, HEIGHT))
    return np.stack([x, y, (x + y) / 2], axis=-1).astype(np.uint8)


RGB = gradient()
GREY = np.repeat(RGB[..., :1], 3, axis=2)
LEFT = (np.arange(WIDTH) < WIDTH // 2)[None, :, None]  # is transparent
ON_WHITE = np.where(LEFT, 255, RGB).astype(np.uint8)


def file_of(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def with_alpha() -> Image.Image:
    """Green noise under what is transparent."""
    noise = np.random.default_rng(0).integers(0, 256, RGB.shape, dtype=np.uint8) * np.array([0, 1, 0], np.uint8)
    alpha = np.where(LEFT[..., 0], 0, 255).repeat(HEIGHT, 0).astype(np.uint8)
    return Image.fromarray(np.dstack([np.where(LEFT, noise, RGB), alpha]))


def palette_with_transparency() -> tuple[bytes, Pixels]:
    indexed = Image.fromarray(RGB).quantize(16)
    shown = np.asarray(indexed.convert("RGB"))
    content = file_of(indexed, transparency=0)
    return content, np.where((np.asarray(indexed) == 0)[..., None], 255, shown).astype(np.uint8)


def sideways() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return file_of(Image.fromarray(RGB).transpose(Image.Transpose.ROTATE_90), exif=exif)


def lab() -> Image.Image:
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    converted = ImageCms.profileToProfile(Image.fromarray(RGB), *profiles, outputMode="LAB")
    assert converted is not None
    return converted


def table() -> dict[str, tuple[bytes, Pixels]]:
    """Files by what they are, and how they look."""
    plain, grey = Image.fromarray(RGB), Image.fromarray(RGB[..., 0])
    bits = np.where(RGB[..., :1] > 100, 255, 0).repeat(3, 2).astype(np.uint8)
    deep = RGB[..., 0].astype(np.uint16) * 257
    alpha = with_alpha()
    grey_alpha = Image.fromarray(np.dstack([RGB[..., 0], np.asarray(alpha)[..., 3]]))
    frames = {"save_all": True, "append_images": [Image.new("RGB", plain.size)]}
    return {
        "JPEG": (file_of(plain, "JPEG", quality=95), RGB),
        "grey JPEG": (file_of(grey, "JPEG", quality=95), GREY),
        "CMYK JPEG": (file_of(plain.convert("CMYK"), "JPEG", quality=95), RGB),
        "CMYK TIFF": (file_of(plain.convert("CMYK"), "TIFF"), RGB),
        "YCbCr TIFF": (file_of(plain.convert("YCbCr"), "TIFF"), RGB),
        "LAB TIFF": (file_of(lab(), "TIFF"), RGB),
        "1 bit": (file_of(Image.fromarray(bits).convert("1")), bits),
        "16-bit grey PNG": (file_of(Image.fromarray(deep)), GREY),
        "16-bit grey TIFF": (file_of(Image.fromarray(deep), "TIFF"), GREY),
        "16-bit big-endian TIFF": (
            file_of(Image.frombytes("I;16B", grey.size, deep.astype(">u2").tobytes()), "TIFF"),
            GREY,
        ),
        "32-bit TIFF of 16 bits": (file_of(Image.fromarray(deep.astype(np.int32)), "TIFF"), GREY),
        "32-bit TIFF of 8 bits": (file_of(Image.fromarray(RGB[..., 0].astype(np.int32)), "TIFF"), GREY),
        "float TIFF": (file_of(Image.fromarray(RGB[..., 0].astype(np.float32)), "TIFF"), GREY),
        "float TIFF up to 1": (file_of(Image.fromarray(RGB[..., 0].astype(np.float32) / 255), "TIFF"), GREY),
        "palette": (file_of(plain.quantize(256)), np.asarray(plain.quantize(256).convert("RGB"))),
        "palette with transparency": palette_with_transparency(),
        "RGBA PNG": (file_of(alpha), ON_WHITE),
        "RGBA WebP": (file_of(alpha, "WEBP", lossless=True, exact=True), ON_WHITE),
        "grey with alpha": (file_of(grey_alpha), np.where(LEFT, 255, GREY).astype(np.uint8)),
        "turned by EXIF": (sideways(), RGB),
        "animated PNG": (file_of(plain, **frames), RGB),
        "animated WebP": (file_of(plain, "WEBP", lossless=True, **frames), RGB),
        "TIFF of two pages": (file_of(plain, "TIFF", **frames), RGB),
        "AVIF": (file_of(plain, "AVIF", quality=95), RGB),
        "JPEG 2000": (file_of(plain, "JPEG2000"), RGB),
        "BMP": (file_of(plain, "BMP"), RGB),
    }


IMAGES = table()


def as_pair(content: bytes, folder: Path) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(RESIZER(content).jpeg)).convert("RGB"))


def coco(content: bytes, folder: Path) -> Coco:
    (folder / "images").mkdir()
    (folder / "images" / "x.png").write_bytes(content)
    annotations = {
        "images": [{"id": 1, "file_name": "x.png"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 20, 20]}],
        "categories": [{"id": 1, "name": "dog"}],
    }
    (folder / "coco.json").write_text(json.dumps(annotations))
    return Coco(annotations=folder / "coco.json", images=(folder / "images",))


def with_boxes(content: bytes, folder: Path) -> Pixels:
    (image,) = coco(content, folder).read(0, 1)
    assert isinstance(image, BoxedImage)
    return np.asarray(Image.open(io.BytesIO(image.jpeg)).convert("RGB"))


def in_evaluation(content: bytes, folder: Path) -> Pixels:
    CocoValidation(sources=(coco(content, folder),)).write(folder / "validation", train_image_counts={})
    (path,) = (folder / "validation" / "images").iterdir()
    return image_pixels(path).permute(1, 2, 0).numpy()


def in_prediction(content: bytes, folder: Path) -> Pixels:
    path = folder / "photo"
    path.write_bytes(content)
    found = image_pixels(path)
    assert found.equal(image_pixels(content))
    assert found.equal(image_pixels(Image.open(path)))
    return found.permute(1, 2, 0).numpy()


def drawn(content: bytes, folder: Path) -> Pixels:
    """Enlarged for its labels, so made smaller again."""
    image = draw_detections(Image.open(io.BytesIO(content)), [], [], [])
    return np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.BOX))


def shown(content: bytes, folder: Path) -> Pixels:
    annotation = TrainingSample(supervision="image_text", width=WIDTH, height=HEIGHT, concepts=[], caption="x")
    image = sample_cell(ShownSample(key="x", jpeg=content, annotation=annotation)).image
    assert image is not None
    return np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.BOX))


DOORS: list[Callable[[bytes, Path], Pixels]] = [as_pair, with_boxes, in_evaluation, in_prediction, drawn, shown]


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_an_image_looks_the_same(door: Callable[[bytes, Path], Pixels], kind: str, tmp_path: Path) -> None:
    content, wanted = IMAGES[kind]

    found = door(content, tmp_path)

    assert found.shape == wanted.shape
    # JPEG and resizing blur edges.
    difference = np.abs(found.astype(float) - wanted.astype(float))
    assert difference.mean() < 4
    assert np.median(difference) < 3


@pytest.mark.parametrize("kind", IMAGES)
def test_a_held_out_image_is_hashed_as_it_looks(kind: str, tmp_path: Path) -> None:
    content, _ = IMAGES[kind]
    (tmp_path / "x.png").write_bytes(content)

    (phash,) = hash_images(tmp_path)["phash"].to_pylist()

    assert phash == str(imagehash.phash(decode_rgb(content)))


def test_images_of_every_format_are_held_out(tmp_path: Path) -> None:
    formats = {"a.jpg": "JPEG", "b.TIF": "TIFF", "c.avif": "AVIF", "d.gif": "GIF", "e.jp2": "JPEG2000", "f.ppm": "PPM"}
    for name, format in formats.items():
        (tmp_path / name).write_bytes(file_of(Image.fromarray(RGB), format))
    (tmp_path / "._a.jpg").write_bytes(b"what macOS keeps beside a.jpg")
    (tmp_path / "notes.txt").write_text("none")

    assert hash_images(tmp_path)["file_name"].to_pylist() == list(formats)


@pytest.mark.parametrize("kind", [kind for kind in IMAGES if kind != "turned by EXIF"])
def test_verification_decodes_it(kind: str) -> None:
    annotation = TrainingSample(supervision="image_text", width=WIDTH, height=HEIGHT, concepts=[], caption="x")
    members = {"jpg": IMAGES[kind][0], "json": annotation.model_dump_json().encode()}
    assert read_sample(TarSample(key="x", members=members), supervision="image_text")[1] == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(sorted(IMAGES)), data=st.data())
def test_damaged_images_end_in_the_doors_own_error(
    kind: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(IMAGES[kind][0])
    for _ in range(data.draw(st.integers(0, 6))):
        content[data.draw(st.integers(0, min(len(content), 400) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(content[: data.draw(st.integers(0, len(content)))])
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "x.png").write_bytes(damaged)

    try:
        RESIZER(damaged)
    except ImageError as error:
        assert error.slug in DROP_REASONS  # noqa: PT017
    annotation = TrainingSample(supervision="image_text", width=WIDTH, height=HEIGHT, concepts=[], caption="x")
    members = {"jpg": damaged, "json": annotation.model_dump_json().encode()}
    assert isinstance(read_sample(TarSample(key="x", members=members), supervision="image_text")[1], list)
    try:
        whole = decode_rgb(damaged)
    except ImageDecodingError:
        with pytest.raises(ValueError, match="x.png cannot be decoded: "):
            hash_images(folder)
        (lost,) = coco(damaged, folder).read(0, 1)
        assert lost.dropped_boxes == {"image_unreadable": 1}
        with pytest.raises(ValueError, match="x.png cannot be read as an image: "):
            image_pixels(folder / "x.png")
    else:
        assert image_pixels(damaged).shape == (3, whole.height, whole.width)
        assert hash_images(folder).num_rows == 1
