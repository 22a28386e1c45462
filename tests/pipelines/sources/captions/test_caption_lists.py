"""Lists of captions in the forms that people have."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sources.captions.caption_lists import list_captions
from pipelines.sources.captions.image_folders import ImageFolders


def listed(folder: Path, files: dict[str, str | bytes], path: str = "") -> list[tuple[str, str | None, str | None]]:
    """File, caption and reason of what is listed by ``path`` below a folder with these files."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    found = list_captions(folder / path, ImageFolders((folder,)))
    return [(one.file, one.caption, one.drop_reason) for one in found]


PAIRS: list[tuple[str, str | None, str | None]] = [
    ("1.jpg", "a dog , running", None),
    ("1.jpg", 'a "brown" dog', None),
    ("2.jpg", "a cat", None),
]
LISTS = {
    "captions.txt": 'image,caption\n1.jpg,"a dog , running"\n1.jpg,"a ""brown"" dog"\n2.jpg,a cat\n',  # Flickr8k
    "results.csv": 'image_name| comment_number| comment\n1.jpg| 0| a dog , running\n1.jpg| 1| a "brown" dog\n2.jpg| 0| a cat\n',
    "results_20130124.token": '1.jpg#0\ta dog , running\n1.jpg#1\ta "brown" dog\n2.jpg#0\ta cat\n',  # Flickr30k
    "Flickr8k.token.txt": '1.jpg#0\ta dog , running\r\n1.jpg#1\ta "brown" dog\r\n2.jpg#0\ta cat\r\n',
    "captions.tsv": '1.jpg\ta dog , running\n1.jpg\ta "brown" dog\n2.jpg\ta cat\n',
    "metadata.csv": 'file_name,text\n1.jpg,"a dog , running"\n1.jpg,"a ""brown"" dog"\n2.jpg,a cat\n',  # imagefolder
    "metadata.jsonl": "\n".join(json.dumps({"file_name": file, "text": text}) for file, text, _ in PAIRS),
    "captions.json": json.dumps([{"image": file, "caption": text} for file, text, _ in PAIRS]),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", LISTS)
def test_lists_of_every_form_in_a_folder_and_by_name(tmp_path: Path, name: str, encoding: str) -> None:
    images = {"1.jpg": b"", "2.jpg": b"", "Images/3.jpg": b""}
    found = listed(tmp_path, {**images, name: LISTS[name].encode(encoding)})
    assert found == [*PAIRS, ("Images/3.jpg", None, "caption_missing")]
    assert listed(tmp_path, {}, name) == PAIRS


def coco(images: list[Any], annotations: list[Any]) -> str:
    return json.dumps({"images": images, "annotations": annotations})


def test_coco_captions(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in (1, 2, 3)]
    annotations: list[Any] = [
        {"image_id": "2", "caption": "a cat"}, {"image_id": 1.0, "caption": "a dog"}, {"image_id": 1, "caption": 7},
        {"image_id": 9, "caption": "lost"}, {"image_id": [1], "caption": "lost, too"}, {"caption": None},
    ]  # fmt: skip
    assert listed(tmp_path, {"x.json": coco(images, annotations)}, "x.json") == [
        ("1.jpg", "a dog", None),
        ("1.jpg", None, "caption_not_text"),
        ("2.jpg", "a cat", None),
        ("3.jpg", None, "caption_missing"),
        ("", "lost", "image_missing"),
        ("", "lost, too", "image_missing"),
        ("", None, "image_missing"),
    ]


def test_texts_beside_images(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "a/1.jpg": b"", "a/1.txt": "\ufeffa dog\n", "a/2.PNG": b"", "a/2.caption": "a cat", "a/2.txt": "a black cat",
        "a/3.jpg": b"", "a/3.txt": "caf\xe9".encode("latin-1"), "a/4.jpg": b"", "a/5.txt": "no image",
        "b/1.jpg": b"", "b/1.txt": b"x" * (2**20 + 1), "b/._1.txt": b"\0\5",
    }  # fmt: skip
    assert listed(tmp_path, files) == [
        ("a/1.jpg", "a dog", None),
        ("a/2.PNG", "a cat", None),
        ("a/2.PNG", "a black cat", None),
        ("a/3.jpg", None, "caption_not_utf8"),
        ("b/1.jpg", None, "caption_too_large"),
        ("a/5.txt", "no image", "image_missing"),
        ("a/4.jpg", None, "caption_missing"),
    ]


@pytest.mark.parametrize(
    ("files", "path", "message"),
    [
        ({"1.jpg": b""}, "", "no caption was found: it has no captions.txt or metadata.csv, nor .txt beside images; docs"),
        ({"captions.txt": LISTS["captions.txt"], "metadata.csv": "x"}, "", "has both captions.txt and metadata.csv: name"),
        ({"x.csv": "file_name,label\na,b\n"}, "x.csv", r"x.csv has no column caption; it has \['file_name', 'label'\]"),
        ({"x.txt": "1.jpg a dog\n"}, "x.txt", r"x.txt has no column file or caption; it has \['1.jpg a dog'\]"),
        ({"x.txt": "1.jpg#0\ta dog\n2.jpg\n"}, "x.txt", r"x.txt: row 2, '2.jpg\\n', is not name.jpg#0<TAB>caption"),
        ({"x.json": "{}"}, "x.json", "x.json is no COCO captions JSON: it has no list of objects 'images'"),
        ({"x.json": coco([{"id": 1}], [])}, "x.json", r"x.json: images\[0\] has no id or file_name; it has \['id'\]"),
        ({"x.json": coco([{"id": 1, "file_name": "a"}, {"id": "1", "file_name": "b"}], [])}, "x.json",
         r"x.json: images\[1\]: id '1' is that of 'a', too"),
        ({"x.json": coco([], [{"image_id": 1, "bbox": [0, 0, 1, 1]}])}, "x.json",
         r"x.json: annotations\[0\] is a box without a caption: pass the file by --detection"),
        ({"x.json": "[" * 100_000}, "x.json", "x.json is not JSON"),
        ({"x.xml": "<x/>"}, "x.xml", "x.xml is neither .csv nor .tsv"),
    ],
)  # fmt: skip
def test_what_is_not_read(tmp_path: Path, files: dict[str, str | bytes], path: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        listed(tmp_path, files, path)


@settings(max_examples=80, deadline=None)
@given(st.data())
@pytest.mark.parametrize("name", [*LISTS, "coco.json"])
def test_damage_gives_captions_or_an_error_that_names_the_file(name: str, data: st.DataObject) -> None:
    images = [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}]
    annotations = [{"image_id": 1, "caption": "a dog"}, {"image_id": 2, "caption": "a cat"}]
    content = bytearray(LISTS.get(name, coco(images, annotations)).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position : position + data.draw(st.integers(0, 6))] = data.draw(st.binary(max_size=6))
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = listed(Path(folder), {name: bytes(content)}, name)
        except ValueError as error:
            assert name in str(error)  # noqa: PT017 - an error is one of two right answers
            return
    assert all((caption is None) <= (reason is not None) for _, caption, reason in found)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=100, deadline=None)
@given(JSON, JSON, JSON, st.sampled_from(["id", "file_name", "image_id", "caption"]))
def test_whatever_stands_in_a_field_of_coco(one: Any, two: Any, three: Any, field: str) -> None:
    images = [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}]
    annotations = [{"image_id": 1, "caption": "a dog"}, {"image_id": 2, "caption": "a cat"}]
    for entries in (images, annotations):
        for entry, value in zip(entries, (one, two), strict=True):
            if field in entry:
                entry[field] = value
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = listed(
                Path(folder),
                {"x.json": json.dumps({"images": images, "annotations": annotations, "info": three})},
                "x.json",
            )
        except ValueError as error:
            assert "x.json" in str(error)  # noqa: PT017 - an error is one of two right answers
            return
    assert len(found) >= len(annotations)
