"""Hostile image files at every door: each ends in its reason, or is used, within 10 s of processor time and 1 GiB."""

import io
import itertools
import json
import os
import signal
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import psutil
import pytest
from PIL import Image

from detclipv2.data.image_input import image_pixels
from detclipv2.image_decoding import ImageDecodingError, open_image, read_image_file
from detclipv2.jpeg_scans import count_scans
from pipelines.fetch.decoder import decoder_for, resize_all
from pipelines.fetch.drop_reasons import DROP_REASONS, ImageError
from pipelines.fetch.image_resizer import ImageSettings
from pipelines.fetch.ingest import Ingest
from pipelines.inspect.verify import read_sample
from pipelines.sources.boxes.coco import Coco
from pipelines.sources.boxes.coco_validation import CocoValidation
from pipelines.sources.held_out_images import hash_images
from pipelines.storage.tars import TarSample
from schemas.source_images import ImagePair, LostBoxes
from schemas.training import TrainingSample
from tests.detclipv2.test_jpeg_scans import jpeg, with_scans

LIMIT_S = 10
LIMIT_BYTES = 1 << 30


def file_of(image: Image.Image, format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int = 8, height: int = 8, *, before: bytes = b"", colour: int = 0, after: bytes = b"") -> bytes:
    """A black PNG, with further chunks before and after its pixels."""
    num_bytes = height * (1 + width * {0: 1, 2: 3, 6: 4}[colour])
    rows = zlib.compress(bytes(num_bytes if num_bytes < 1 << 28 else 0))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", rows) + after + chunk(b"IEND", b"")


def tiff(
    *, num_frames: int = 1, side: int = 8, tags: tuple[tuple[int, int, int, int], ...] = (), loop: bool = False
) -> bytes:
    """A grey TIFF of that many directories, each with further tags: number, type, count and value."""
    content = bytearray(b"II*\0" + struct.pack("<I", 200_008) + bytes(200_000))
    usual = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    usual += [(277, 3, 1, 1), (278, 4, 1, side), (279, 4, 1, side * side & 0xFFFFFFFF)]
    for i in range(num_frames):
        own = sorted([*usual, *tags])
        following = len(content) + 6 + 12 * len(own)
        last = 200_008 if loop else 0
        content += struct.pack("<H", len(own)) + b"".join(struct.pack("<HHII", *tag) for tag in own)
        content += struct.pack("<I", following if i < num_frames - 1 else last)
    return bytes(content)


def exif_segments(content: bytes, count: int) -> bytes:
    """A JPEG with one EXIF block over many segments, whose tags all claim most of it."""
    size = count * 65_000
    num_tags = 5_000
    tags = b"".join(struct.pack("<HHII", 40_000 + i, 7, size - 61_000, 60_500) for i in range(num_tags))
    block = b"II*\0" + struct.pack("<IH", 8, num_tags) + tags + bytes(4)
    block = block.ljust(size, b"\0")
    parts = [block[i : i + 65_000] for i in range(0, size, 65_000)]
    segments = [b"\xff\xe1" + struct.pack(">H", len(part) + 8) + b"Exif\0\0" + part for part in parts]
    return content[:2] + b"".join(segments) + content[2:]


def jp2_of(width: int, height: int) -> bytes:
    """A JPEG 2000 image that says it is of another size."""
    content = file_of(Image.new("L", (64, 64)), "JPEG2000")
    return content.replace(struct.pack(">II", 64, 64), struct.pack(">II", height, width))


def jpeg_of(width: int, height: int) -> bytes:
    """A JPEG that says it is of another size."""
    content = jpeg("L")
    start = content.index(b"\xff\xc0")
    return content[: start + 5] + struct.pack(">HH", height, width) + content[start + 9 :]


def gif(*, screen: int = 8, frame: tuple[int, int, int, int] = (0, 0, 8, 8)) -> bytes:
    """A GIF whose logical screen, or whose frame, says that it is of another size."""
    content = file_of(Image.new("P", (8, 8)), "GIF")
    content = content.replace(struct.pack("<4H", 0, 0, 8, 8), struct.pack("<4H", *frame))
    return content[:6] + struct.pack("<HH", screen, screen) + content[10:]


def animation(*, num_frames: int) -> bytes:
    frames = [Image.new("L", (40, 40), i % 250) for i in range(num_frames)]
    return file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])


def progressive(*, side: int, num_scans: int) -> bytes:
    content = file_of(Image.new("RGB", (side, side)), "JPEG", progressive=True)
    return with_scans(content, num_scans - count_scans(content))


LAYERS = list(range(200, 1, -1))
BOMB = zlib.compress(bytes(200_000_000), 9)
NOT_ONE, PIXELS, CUT = "not_an_image", "too_many_pixels", "truncated"
# By what they are: how they are made, and their reason, None where they are used.
FILES: dict[str, tuple[Callable[[], bytes], str | None]] = {
    "empty": (lambda: b"", NOT_ONE),
    "text": (lambda: b"no image at all\n" * 50, NOT_ONE),
    "EPS": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/x) deletefile showpage\n%%EOF\n", NOT_ONE),
    "EPS of Windows": (lambda: b"\xc5\xd0\xd3\xc6" + struct.pack("<6I", 30, 60, 0, 0, 0, 0) + b"\xff\xff%!PS" * 20, NOT_ONE),
    "SVG": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', NOT_ONE),
    "PSD": (lambda: b"8BPS\0\x01" + bytes(6) + struct.pack(">HIIHH", 3, 9, 9, 8, 3) + bytes(500), NOT_ONE),
    "PDF": (lambda: file_of(Image.new("RGB", (9, 9)), "PDF"), NOT_ONE),
    "ICO": (lambda: file_of(Image.new("RGB", (32, 32)), "ICO"), NOT_ONE),
    "ICNS": (lambda: file_of(Image.new("RGB", (32, 32)), "ICNS"), NOT_ONE),
    "TGA": (lambda: file_of(Image.new("RGB", (32, 32)), "TGA"), NOT_ONE),
    "gzip": (lambda: b"\x1f\x8b\x08\0" + BOMB[:1000], NOT_ONE),
    "GIF and script": (lambda: b"GIF89a/*" + bytes(8) + b"*/=1;alert(1)", NOT_ONE),
    "JPEG and zip": (lambda: jpeg() + b"PK\x03\x04" + bytes(500) + b"\xff\xd9", None),
    "cut JPEG": (lambda: jpeg()[:-600], CUT),
    "cut PNG": (lambda: file_of(Image.effect_noise((64, 64), 90), "PNG")[:-900], CUT),
    "huge PNG": (lambda: png(60_000, 60_000), PIXELS),
    "PNG of the longest sides": (lambda: png(2**31 - 1, 2**31 - 1), PIXELS),
    "PNG of no height": (lambda: png(8, 0), NOT_ONE),
    "GIF of a huge screen": (lambda: gif(screen=65_535), PIXELS),
    "GIF frame outside its screen": (lambda: gif(frame=(60_000, 60_000, 5_000, 5_000)), PIXELS),
    "huge BMP": (lambda: b"BM" + struct.pack("<6I2H6I", 9999, 0, 54, 40, 10**5, 10**5, 1, 24, 0, 0, 0, 0, 0, 0), PIXELS),
    "huge TIFF": (lambda: tiff(side=400_000), PIXELS),
    "huge JPEG": (lambda: jpeg_of(65_500, 65_500), PIXELS),
    "huge JPEG 2000": (lambda: jp2_of(2**31 - 1, 2**31 - 1), PIXELS),
    "huge WebP": (lambda: b"RIFF\x16\0\0\0WEBPVP8L" + struct.pack("<IBI", 10, 0x2F, 16_383 | 16_383 << 14) + bytes(5), PIXELS),
    "huge PPM": (lambda: b"P5 99999999 99999999 255\n" + bytes(9), "PPM"),
    "JPEG of 310 scans": (lambda: progressive(side=4000, num_scans=310), "too_many_scans"),
    "JPEG of 100 scans": (lambda: progressive(side=2000, num_scans=100), None),
    "zTXt bomb": (lambda: png(before=chunk(b"zTXt", b"Comment\0\0" + BOMB)), NOT_ONE),
    "iTXt bomb": (lambda: png(before=chunk(b"iTXt", b"Comment\0\1\0\0\0" + BOMB)), NOT_ONE),
    "iTXt bomb at the end": (lambda: png(after=chunk(b"iTXt", b"Comment\0\1\0\0\0" + BOMB)), NOT_ONE),
    "iCCP bomb": (lambda: png(before=chunk(b"iCCP", b"icc\0\0" + BOMB)), NOT_ONE),
    "pixel bomb": (lambda: png(before=chunk(b"IDAT", BOMB)), None),
    "text chunks without end": (lambda: png(before=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000))) * 100), NOT_ONE),
    "100,000 chunks": (lambda: png(before=chunk(b"tEXt", b"a\0b") * 100_000), None),
    "EXIF over 40 segments": (lambda: exif_segments(jpeg(), 40), None),
    "PNG with EXIF of 2 MB": (lambda: png(before=chunk(b"eXIf", exif_segments(jpeg(), 30)[12:2_000_000])), None),
    "TIFF of 5,000 pages": (lambda: tiff(num_frames=5_000, tags=((40_000, 7, 150_000, 8),)), None),
    "TIFF whose pages are a ring": (lambda: tiff(num_frames=5, loop=True), None),
    "TIFF of tags of 4 GB": (lambda: tiff(tags=tuple((40_000 + i, 7, 2**32 - 1, 8) for i in range(3_000))), None),
    "TIFF of overlapping tags": (lambda: tiff(tags=tuple((40_000 + i, 7, 190_000, 8) for i in range(5_000))), None),
    "GIF of 2,000 frames": (lambda: animation(num_frames=2_000), None),
    "APNG that announces 2**31 frames": (lambda: png(before=chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))), None),
    "JPEG 2000 of 3,900 tiles": (lambda: file_of(Image.new("L", (2000, 2000)), "JPEG2000", tile_size=(32, 32)), None),
    "JPEG 2000 of many layers": (lambda: file_of(Image.new("RGB", (900, 900)), "JPEG2000", quality_layers=LAYERS), None),
    "transparent, 16 million pixels": (lambda: png(4_000, 4_000, colour=6), None),
    "panorama": (lambda: png(100_000, 40), "panorama"),
}  # fmt: skip


@cache
def content_of(name: str) -> bytes:
    return FILES[name][0]()


def as_pair(content: bytes, folder: Path) -> str | None:
    decoder = decoder_for(ImageSettings().resizer)
    result = decoder.finish(decoder.submit(content))
    return result.slug if isinstance(result, ImageError) else None


def in_a_mirror(content: bytes, folder: Path) -> str | None:
    pairs = [ImagePair(url="http://img.test/1", caption="a photo", image=content)]
    (row,) = Ingest().run(pairs, source="s", folder=folder).to_pylist()
    return row["drop_reason"]


def coco(content: bytes, folder: Path) -> Coco:
    (folder / "images").mkdir()
    (folder / "images" / "x.jpg").write_bytes(content)
    annotations = {
        "images": [{"id": 1, "file_name": "x.jpg"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2000, 2000]}],
        "categories": [{"id": 1, "name": "dog"}],
    }
    (folder / "coco.json").write_text(json.dumps(annotations))
    return Coco(annotations=folder / "coco.json", images=(folder / "images",))


def with_boxes(content: bytes, folder: Path) -> str | None:
    (image,) = coco(content, folder).read(0, 1, resize_all=resize_all)
    if isinstance(image, LostBoxes):
        (reason,) = image.dropped_boxes
        return reason
    assert open_image(image.jpeg).size == (image.sample.width, image.sample.height)
    return None


def in_validation(content: bytes, folder: Path) -> str | None:
    source = CocoValidation(sources=(coco(content, folder),))
    written = source.write(folder / "out", train_image_counts={}, resize_all=resize_all)
    return next(iter(written.dropped_boxes), None)


def held_out(content: bytes, folder: Path) -> str | None:
    (folder / "x.jpg").write_bytes(content)
    return error_of(lambda: hash_images(folder))


def in_prediction(content: bytes, folder: Path) -> str | None:
    (folder / "x.jpg").write_bytes(content)
    return error_of(lambda: image_pixels(folder / "x.jpg"))


def verified(content: bytes, folder: Path) -> str | None:
    annotation = TrainingSample(supervision="image_text", width=8, height=8, concepts=[], caption="x")
    members = {"jpg": content, "json": annotation.model_dump_json().encode()}
    problems = read_sample(TarSample(key="x", members=members), supervision="image_text")[1]
    return next((problem for problem in problems if problem.startswith("the image cannot be decoded: ")), None)


def error_of(read: Callable[[], object]) -> str | None:
    """The reason of the error that an image ended in."""
    try:
        read()
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert isinstance(error.__cause__, ImageDecodingError), repr(error)  # noqa: PT017
        return error.__cause__.reason
    return None


GUARDED: list[Callable[[bytes, Path], str | None]] = [as_pair, in_a_mirror, with_boxes, in_validation]
DOORS = [*GUARDED, held_out, in_prediction, verified]


@pytest.fixture
def bounded() -> Iterator[None]:
    """Ends a test that takes this process more than its share of the processor."""

    def stop(*_: object) -> None:
        raise AssertionError(f"more than {LIMIT_S} s of the processor")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


def wanted(name: str, door: Callable[[bytes, Path], str | None]) -> str | None:
    reason = FILES[name][1]
    if reason == "panorama":  # whose stored side is too long where its shorter one is to be kept
        reason = PIXELS if door in (as_pair, in_a_mirror) else None
    if reason == "PPM":  # which the web has none of
        reason = NOT_ONE if door in (as_pair, in_a_mirror) else PIXELS
    return "image_unreadable" if reason is not None and door in (with_boxes, in_validation) else reason


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
@pytest.mark.usefixtures("bounded")
def test_a_hostile_image_ends_in_its_reason(
    door: Callable[[bytes, Path], str | None], name: str, tmp_path: Path
) -> None:
    content = content_of(name)
    before = decoder_cpu_s()

    found = door(content, tmp_path)

    if door is verified and wanted(name, door) is not None:
        assert found is not None
        assert "\n" not in found
    else:
        assert found == wanted(name, door)
    if door in GUARDED:
        pid = decoder_pid()
        spent = decoder_cpu_s()
        assert spent.get(pid, 0) - before.get(pid, 0) < LIMIT_S
        if sys.platform == "linux":
            assert peak_bytes(pid) < LIMIT_BYTES


def decoder_pid() -> int:
    from pipelines.fetch import decoder

    assert decoder._shared is not None
    assert decoder._shared.pid is not None
    return decoder._shared.pid


def decoder_cpu_s() -> dict[int, float]:
    return {child.pid: sum(child.cpu_times()[:2]) for child in psutil.Process().children()}


def peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def test_reasons_are_declared() -> None:
    assert {reason for _, reason in FILES.values()} - {None, "panorama", "PPM"} <= DROP_REASONS


NOT_REGULAR: dict[str, Callable[[Path], None]] = {
    "FIFO": os.mkfifo,
    "folder": os.mkdir,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "terabyte": lambda path: (path.touch(), os.truncate(path, 1 << 40))[0],
    "broken link": lambda path: path.symlink_to("none"),
}
PATH_DOORS: list[Callable[[Path], object]] = [
    read_image_file,
    open_image,
    image_pixels,
    lambda path: hash_images(path.parent),
]


@pytest.mark.parametrize(("kind", "door"), list(itertools.product(NOT_REGULAR, PATH_DOORS)))
@pytest.mark.usefixtures("bounded")
def test_what_is_no_regular_file_is_refused(kind: str, door: Callable[[Path], object], tmp_path: Path) -> None:
    NOT_REGULAR[kind](tmp_path / "x.jpg")
    with pytest.raises(
        ValueError, match=r"regular file|Is a directory|more than \d+|No such file|no image under|leads out of"
    ):
        door(tmp_path / "x.jpg")


@pytest.mark.parametrize("kind", ["FIFO", "device", "terabyte"])
@pytest.mark.usefixtures("bounded")
def test_boxes_of_what_is_no_regular_file_are_counted(kind: str, tmp_path: Path) -> None:
    source = coco(b"", tmp_path)
    (tmp_path / "images" / "x.jpg").unlink()
    NOT_REGULAR[kind](tmp_path / "images" / "x.jpg")
    try:
        dropped = [image.dropped_boxes for image in source.read(0, 1, resize_all=resize_all)]
    except ValueError as error:
        assert "x.jpg" in str(error) or "coco.json" in str(error)  # noqa: PT017
    else:
        assert dropped in ([{"image_unreadable": 1}], [{"image_missing": 1}])
