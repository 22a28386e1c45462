"""Pascal-VOC XML as tools write it: encodings, several boxes in an object, damage."""

import codecs
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from PIL import Image

from detclipv2.image_decoding import decode_rgb
from pipelines.sources.boxes.pascal_voc import PascalVoc
from pipelines.sources.boxes.voc_xml import read_voc_xml
from schemas.source_images import StoredImage
from tests.pipelines.sources.boxes.test_yolo import damaged

BOX = "<bndbox><xmin>{0}</xmin><ymin>{0}</ymin><xmax>{1}</xmax><ymax>{1}</ymax></bndbox>"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "one.xml"


def annotation(body: str, *, declaration: str = "") -> str:
    return f"{declaration}<annotation>{body}</annotation>"


@pytest.mark.parametrize(
    ("declared", "encoding", "bom"),
    [
        ("", "utf-8", b""),
        ("", "utf-8", codecs.BOM_UTF8),
        ("UTF-8", "utf-8", codecs.BOM_UTF8),
        ("ISO-8859-1", "latin-1", b""),
        ("windows-1252", "cp1252", b""),
        ("UTF-16", "utf-16-le", codecs.BOM_UTF16_LE),
        ("UTF-16", "utf-16-be", codecs.BOM_UTF16_BE),
        ("gb2312", "gb2312", b""),
    ],
)
def test_the_declared_encoding_is_read(declared: str, encoding: str, bom: bytes, path: Path) -> None:
    name = "苹果" if encoding == "gb2312" else "écran"
    declaration = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    text = annotation(f"<object><name>{name}</name>{BOX.format(2, 9)}</object>", declaration=declaration)
    path.write_bytes(bom + text.encode(encoding))

    assert read_voc_xml(path).objects[0].names == (name,)


def test_every_box_of_an_object_is_one(path: Path) -> None:
    path.write_text(
        annotation(f"<object><name>car</name>{BOX.format(2, 9)}{BOX.format(3, 8)}{BOX.format(5, 5)}</object>")
    )
    boxes = read_voc_xml(path).objects

    assert [box.box_xyxy for box in boxes] == [(1, 1, 9, 9), (2, 2, 8, 8), (4, 4, 5, 5)]
    assert [box.is_empty for box in boxes] == [False, False, True]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [(text, True) for text in ("1", "true", "True", "1.0")]
    + [(text, False) for text in ("0", "", "false", "Unspecified")],
)
def test_difficult_is_text(text: str, wanted: bool, path: Path) -> None:
    path.write_text(annotation(f"<object><name>a</name><difficult>{text}</difficult>{BOX.format(2, 9)}</object>"))
    assert read_voc_xml(path).objects[0].is_difficult is wanted


def test_numbers_may_have_a_point(path: Path) -> None:
    path.write_text(annotation("<size><width>40.0</width><height> 30 </height></size>"))
    assert read_voc_xml(path).size_px == (40, 30)


def test_an_encoding_that_does_not_fit_is_named(path: Path) -> None:
    path.write_bytes(annotation("<object><name>é</name></object>").encode("latin-1"))
    with pytest.raises(ValueError, match=r"one.xml cannot be read: 'utf-8' codec can't decode byte"):
        read_voc_xml(path)
    path.write_bytes(b'<?xml version="1.0" encoding="no-such"?><annotation/>')
    with pytest.raises(ValueError, match=r"one.xml cannot be read: unknown encoding: no-such"):
        read_voc_xml(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of different colours, p1 to p3; XML goes to xml/."""
    for name in ("xml", "photos"):
        (tmp_path / name).mkdir()
    for i in range(1, 4):
        Image.new("RGB", (40, 30), (80 * i, 0, 0)).save(tmp_path / "photos" / f"p{i}.jpg")
    return tmp_path


def write(folder: Path, name: str, *, file_name: str = "p1.jpg") -> None:
    path = folder / "xml" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(annotation(f"<filename>{file_name}</filename><object><name>a</name>{BOX.format(2, 9)}</object>"))


def source(folder: Path) -> PascalVoc:
    return PascalVoc(annotations=folder / "xml", images=(folder / "photos",))


def test_the_xml_s_own_image_comes_before_the_name_of_a_template(folder: Path) -> None:
    for i in range(1, 4):
        write(folder, f"p{i}.xml")
    images = list(source(folder).read(0, 9))
    reds = [decode_rgb(image.jpeg).getpixel((20, 15))[0] for image in images]  # type: ignore[union-attr,index]

    assert [round(red / 80) for red in reds] == [1, 2, 3]


def test_an_xml_of_another_s_image_is_missing_and_two_of_one_are_an_error(folder: Path) -> None:
    write(folder, "p1.xml")
    write(folder, "p9.xml")
    index = source(folder).read_index()
    assert (index.keys, index.lost_boxes) == (("p1",), {"image_missing": 1})

    (folder / "xml" / "p1.xml").unlink()
    write(folder, "p8.xml")
    with pytest.raises(ValueError, match=r"xml: p8 and p9 have one image, .*p1.jpg: keep one of the two"):
        source(folder).read_index()


def test_any_case_of_the_ending_subfolders_and_hidden_files(folder: Path) -> None:
    write(folder, "p1.XML")
    write(folder, "sub/p2.xml", file_name="p2.jpg")
    (folder / "xml" / "._p1.xml").write_bytes(b"\0\5\x16\7a Mac's")
    found = source(folder)

    assert next(image.key for image in found.read(0, 9)) == "p1"  # type: ignore[union-attr]
    assert len(found) == 2
    assert found.notes == (f"{folder / 'xml'}: 1 hidden .xml files are not read, first ._p1.xml",)
    write(folder, "p1.xml")
    with pytest.raises(ValueError, match=r"xml has both p1.XML and p1.xml: keep one of the two"):
        source(folder).read_index()


VALID = annotation(
    "<filename>p1.jpg</filename><size><width>40</width><height>30</height></size>"
    f"<object><name>a</name><difficult>0</difficult>{BOX.format(2, 9)}{BOX.format(3, 30)}</object>"
    f"<object><name>b</name>{BOX.format(1, 20)}</object>",
    declaration='<?xml version="1.0" encoding="utf-8"?>',
).encode()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=damaged(VALID))
def test_damaged_xml_loses_no_box_or_is_named(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    try:
        found = read_voc_xml(path)
    except ValueError as error:
        assert "one.xml" in str(error)  # noqa: PT017
        return
    voc = PascalVoc(annotations=path.parent, images=())
    stored = StoredImage(jpeg=b"", width=40, height=30, original_width=40, original_height=30, phash=None)
    image = voc._boxed_image("one", stored, [voc.annotate(found)])
    assert len(image.sample.labels) + sum(image.dropped_boxes.values()) == len(found.objects)
