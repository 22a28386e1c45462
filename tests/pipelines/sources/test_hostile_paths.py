"""Hostile file names at every door that takes a name from a file: none is read outside of the folders that a user named."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.build.build_config import BuildConfig
from pipelines.build.own_boxes import own_detection, own_grounding
from pipelines.build.own_pairs import own_captions, own_pairs
from pipelines.sources.boxes.annotated_images import AnnotatedImages, index_of
from pipelines.sources.boxes.flickr30k_entities import Flickr30kEntities
from pipelines.sources.boxes.pascal_voc import PascalVoc
from pipelines.sources.captions.captioned_images import CaptionedImages
from pipelines.sources.captions.remote_files import find_files
from pipelines.sources.captions.webdataset_mirror import WebDatasetMirror
from pipelines.sources.held_out_images import hash_images, read_hashes, read_ids

pytestmark = pytest.mark.timeout(30)  # a hang at a pipe, no measure

XML = (
    "<annotation><filename>{}</filename><object><name>a</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax>"
    "<ymax>9</ymax></bndbox></object></annotation>"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set whose folder has one image of its own; the secret image lies beside it."""
    images = tmp_path / "set" / "images"
    images.mkdir(parents=True)
    Image.new("RGB", (40, 30), "white").save(images / "own.jpg")
    Image.new("RGB", (40, 30), "black").save(tmp_path / "secret.jpg")
    (images / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (images / "loop.jpg").symlink_to(images / "loop.jpg")
    (images / "up").symlink_to(tmp_path)
    os.mkfifo(images / "pipe.jpg")
    return tmp_path


NAMES = {
    "absolute": "{}/secret.jpg",
    "two slashes": "/{}/secret.jpg",
    "passwd": "/etc/hostname",
    "up": "../../secret.jpg",
    "up within": "x/../../../secret.jpg",
    "backslashes": "..\\..\\secret.jpg",
    "percent": "%2e%2e/%2e%2e/secret.jpg",
    "twice percent": "%252e%252e/secret.jpg",
    "drive": "C:\\secret.jpg",
    "network": "\\\\host\\share\\secret.jpg",
    "file url": "file:///{}/secret.jpg",
    "bad url": "file://[/secret.jpg",
    "link": "link.jpg",
    "link to a folder": "up/secret.jpg",
    "loop": "loop.jpg",
    "pipe": "pipe.jpg",
    "nul": "secret\0.jpg",
    "long": "x" * 300 + ".jpg",
    "long path": "x/" * 3000 + "secret.jpg",
    "device": "/dev/zero",
    "empty": "",
    "dot": ".",
    "surrogate": "\ud800.jpg",
    "controls": "\x1b[2J\x9b.jpg",
    "label studio": "/data/local-files/?d=../../secret.jpg",
}


def coco(folder: Path, name: str) -> AnnotatedImages:
    content = {
        "images": [{"id": 1, "file_name": name}, {"id": 2, "file_name": "own.jpg"}],
        "annotations": [{"image_id": i, "category_id": 1, "bbox": [1, 2, 9, 9]} for i in (1, 2)],
        "categories": [{"id": 1, "name": "a"}],
    }
    (folder / "x.json").write_text(json.dumps(content))
    return own_detection(folder / "x.json", images=(folder / "set/images",))


def coco_url(folder: Path, name: str) -> AnnotatedImages:
    content = {
        "images": [{"id": 1, "coco_url": f"http://x/{name}"}, {"id": 2, "file_name": "own.jpg"}],
        "annotations": [{"image_id": i, "category_id": 1, "bbox": [1, 2, 9, 9]} for i in (1, 2)],
        "categories": [{"id": 1, "name": "a"}],
    }
    (folder / "x.json").write_text(json.dumps(content))
    return own_detection(folder / "x.json", images=(folder / "set/images",))


def odvg(folder: Path, name: str) -> AnnotatedImages:
    lines = [
        {"filename": n, "detection": {"instances": [{"bbox": [1, 2, 9, 9], "category": "a"}]}}
        for n in (name, "own.jpg")
    ]
    (folder / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return own_detection(folder / "x.jsonl", images=(folder / "set/images",))


def odvg_grounding(folder: Path, name: str) -> AnnotatedImages:
    grounding = {"caption": "a dog", "regions": [{"bbox": [1, 2, 9, 9], "phrase": "a dog"}]}
    lines = [{"filename": n, "grounding": grounding} for n in (name, "own.jpg")]
    (folder / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return own_grounding(folder / "x.jsonl", images=(folder / "set/images",))


def mdetr(folder: Path, name: str) -> AnnotatedImages:
    content = {
        "images": [{"id": i, "file_name": n, "caption": "a dog"} for i, n in ((1, name), (2, "own.jpg"))],
        "annotations": [{"image_id": i, "bbox": [1, 2, 9, 9], "tokens_positive": [[2, 5]]} for i in (1, 2)],
    }
    (folder / "x.json").write_text(json.dumps(content))
    return own_grounding(folder / "x.json", images=(folder / "set/images",))


def voc(folder: Path, name: str) -> AnnotatedImages:
    (folder / "xml").mkdir()
    text = XML.format(name.replace("\0", "&#0;").replace("\ud800", "&#xd800;"))
    (folder / "xml/one.xml").write_text(text)
    (folder / "xml/own.xml").write_text(XML.format("own.jpg"))
    return own_detection(folder / "xml", images=(folder / "set/images",))


def voc_image_set(folder: Path, name: str) -> AnnotatedImages:
    (folder / "xml").mkdir()
    (folder / "secret.xml").write_text(XML.format("own.jpg"))
    (folder / "set.txt").write_bytes(name.replace("secret.jpg", "secret").encode(errors="surrogatepass") + b"\n")
    return PascalVoc(annotations=folder / "xml", images=(folder / "set/images",), image_set=folder / "set.txt")


def flickr(folder: Path, name: str) -> AnnotatedImages:
    for kind in ("Sentences", "Annotations"):
        (folder / "e" / kind).mkdir(parents=True)
    (folder / "set.txt").write_bytes(name.encode(errors="surrogatepass") + b"\n")
    return Flickr30kEntities(entities=folder / "e", images=(folder / "set/images",), image_set=folder / "set.txt")


def yolo_list(folder: Path, name: str) -> AnnotatedImages:
    (folder / "set/data.yaml").write_text("train: list.txt\nnames: [a]\n")
    (folder / "set/list.txt").write_bytes(f"images/own.jpg\nimages/{name}\n{name}\n".encode(errors="surrogatepass"))
    (folder / "set/images/own.txt").write_text("0 .5 .5 .1 .1")
    return own_detection(folder / "set/data.yaml", images=())


ENDINGS = {"token": "txt", "coco": "json", "url": "csv"}
BOXES = [coco, coco_url, odvg, odvg_grounding, mdetr, voc, voc_image_set, flickr, yolo_list]


@pytest.mark.parametrize("door", BOXES, ids=lambda door: door.__name__)
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_with_boxes_leads_nowhere_else(folder: Path, door: Callable[[Path, str], Any], name: str) -> None:
    name = name.replace("{}", str(folder))
    try:
        index = index_of(door(folder, name))
    except ValueError as error:
        assert str(error).encode(errors="surrogateescape")  # noqa: PT017
        return
    inside = os.path.realpath(folder / "set")
    for path in index.paths:
        assert os.path.realpath(path).startswith(inside), path


@pytest.mark.parametrize("form", ["csv", "jsonl", "token", "coco", "url"])
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_with_captions_leads_nowhere_else(folder: Path, form: str, name: str) -> None:
    name, images = name.replace("{}", str(folder)), (folder / "set/images",)
    path = folder / f"list.{ENDINGS.get(form, form)}"
    header = "url,caption" if form == "url" else "file_name,caption"
    text = {
        "csv": f'{header}\nown.jpg,a dog\n"{name}",a cat\n',
        "url": f'{header}\nown.jpg,a dog\n"{name}",a cat\n',
        "jsonl": "\n".join(json.dumps({"file_name": n, "caption": "a dog"}) for n in ("own.jpg", name)),
        "token": f"own.jpg#0\ta dog\n{name}#0\ta cat\n",
        "coco": json.dumps(
            {
                "images": [{"id": i, "file_name": n} for i, n in enumerate(["own.jpg", name])],
                "annotations": [{"image_id": i, "caption": "a dog"} for i in (0, 1)],
            }
        ),
    }[form]
    path.write_bytes(text.encode(errors="surrogatepass"))
    try:
        source = own_pairs(path, images=images) if form == "url" else own_captions(path, images=images)
    except ValueError:
        return
    assert isinstance(source, CaptionedImages)
    pairs = [pair for shard in source.shards() for pair in shard.read()]
    own = (folder / "set/images/own.jpg").read_bytes()
    assert {pair.image for pair in pairs} <= {None, own}
    assert all(pair.image is not None or pair.drop_reason for pair in pairs)


def test_a_link_may_lead_to_another_folder_of_images(folder: Path) -> None:
    (folder / "disk").mkdir()
    (folder / "secret.jpg").rename(folder / "disk/secret.jpg")
    (folder / "set/images/link.jpg").unlink()
    (folder / "set/images/link.jpg").symlink_to(folder / "disk/secret.jpg")
    coco(folder, "link.jpg")
    with pytest.raises(
        ValueError, match=r"'link.jpg' leads to a link out of the folder of the images, .*give --images"
    ):
        index_of(own_detection(folder / "x.json", images=(folder / "set/images",)))
    images = (folder / "set/images", folder / "disk")
    assert len(index_of(own_detection(folder / "x.json", images=images)).paths) == 2
    (folder / "whole").symlink_to(folder / "disk")  # a folder that is a link is what it leads to
    coco(folder, "secret.jpg")
    assert len(index_of(own_detection(folder / "x.json", images=(folder / "whole", folder / "set/images"))).paths) == 2


@pytest.mark.parametrize(
    "line", ["train: {}", "path: {}/..\ntrain: outside", "train: ../../outside", "train: [{}, images]"]
)
def test_a_yaml_that_names_a_folder_elsewhere_is_followed_and_told(folder: Path, line: str) -> None:
    outside = folder / "outside"
    outside.mkdir()
    Image.new("RGB", (9, 9)).save(outside / "a.jpg")
    (outside / "a.txt").write_text("0 .5 .5 .1 .1")
    (folder / "set/deep").mkdir()
    (folder / "set/deep/data.yaml").write_text(line.format(outside) + "\nnames: [a]\n")
    source = own_detection(folder / "set/deep/data.yaml", images=())
    assert [path.name for path in index_of(source).paths if path.parent == outside] == ["a.jpg"]
    assert any("names images outside of its folder" in note for note in source.notes)


@pytest.mark.parametrize("kind", ["label", "image"])
def test_a_link_of_yolo_leads_nowhere_else(folder: Path, kind: str) -> None:
    (folder / "y/images").mkdir(parents=True)
    (folder / "y/data.yaml").write_text("train: images\nnames: [a]\n")
    (folder / "elsewhere.txt").write_text("0 .5 .5 .1 .1")
    target = folder / ("elsewhere.txt" if kind == "label" else "secret.jpg")
    (folder / "y/images/b.jpg").write_bytes((folder / "secret.jpg").read_bytes())
    (folder / f"y/images/{'b.txt' if kind == 'label' else 'c.jpg'}").symlink_to(target)
    with pytest.raises(ValueError, match=r"data.yaml: .* leads out of its folder: name its folder by path:"):
        index_of(own_detection(folder / "y/data.yaml", images=()))


@pytest.mark.parametrize("kind", ["voc", "Sentences", "Annotations"])
def test_a_linked_annotation_leads_nowhere_else(folder: Path, kind: str) -> None:
    (folder / "secret.txt").write_text("secret")
    for name in ("Sentences", "Annotations", "voc"):
        (folder / "e" / name).mkdir(parents=True)
    (folder / "e/Sentences/1.txt").write_text("[/EN#1/people A dog] runs")
    (folder / "e/Annotations/1.xml").write_text(XML.format("1.jpg"))
    place = folder / "e" / kind / {"voc": "1.xml", "Sentences": "1.txt", "Annotations": "1.xml"}[kind]
    place.unlink(missing_ok=True)
    place.symlink_to(folder / "secret.txt")
    images = (folder / "set/images",)
    source = (
        own_detection(folder / "e/voc", images=images) if kind == "voc" else own_grounding(folder / "e", images=images)
    )
    with pytest.raises(ValueError, match="leads out of its folder"):
        index_of(source)


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "coco": ("x.json", lambda path: index_of(own_detection(path, images=(path.parent,)))),
    "odvg": ("x.jsonl", lambda path: index_of(own_detection(path, images=(path.parent,)))),
    "mdetr": ("x.json", lambda path: index_of(own_grounding(path, images=(path.parent,)))),
    "yolo": ("data.yaml", lambda path: own_detection(path, images=()).vocabulary()),
    "voc": ("x.xml", lambda path: index_of(own_detection(path.parent, images=(path.parent,)))),
    "csv": ("x.csv", lambda path: own_captions(path, images=(path.parent,))),
    "parquet": ("x.parquet", lambda path: own_pairs(path)),
    "tar": (
        "x.tar",
        lambda path: [list(shard.read()) for shard in WebDatasetMirror(path=str(path), name="x").shards()],
    ),
    "folder of tars": ("x.tar", lambda path: WebDatasetMirror(path=str(path.parent), name="x").shards()),
    "ids": ("x.txt", read_ids),
    "hashes": ("x.parquet", read_hashes),
    "hashing": ("x.jpg", lambda path: hash_images(path.parent)),
}


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "socket", "folder", "device", "loop"])
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_regular_file_is_not_read(tmp_path: Path, kind: str, reader: str) -> None:
    name, read = READERS[reader]
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to a pipe":
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to(tmp_path / "pipe")
    elif kind == "socket":
        before = os.getcwd()
        os.chdir(tmp_path / "in")  # the path of a socket is short
        try:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(name)
        finally:
            os.chdir(before)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path)
    with pytest.raises(ValueError):  # noqa: PT011 - what is said differs with the door
        read(path)


@pytest.mark.parametrize(
    "name", ["..", ".", "../../x", "/x", "a/b", "", "-", "a\0", "a\n", "x" * 101, "é", "a b", "\ud800"]
)
def test_a_name_of_a_dataset_is_no_path(name: str) -> None:
    with pytest.raises(ValueError, match="--name"):
        BuildConfig(name=name).dataset()


def test_long_names_of_files_leave_room_for_their_shards(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 120 + ".csv")
    path.write_text("url,caption\nhttp://a.test/x.jpg,a dog\n")
    other = path.with_name("é" * 119 + "f.csv")
    other.write_text(path.read_text())
    names = {own_pairs(one).name for one in (path, other)}
    assert len(names) == 2
    assert all(len(name.encode()) <= 96 for name in names)


def test_a_link_in_a_folder_of_tables_leads_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"url": ["http://a.test/x"], "caption": ["a dog"]}), tmp_path / "secret.parquet")
    (tmp_path / "in/a.parquet").symlink_to(tmp_path / "secret.parquet")
    with pytest.raises(ValueError, match="is a link out of"):
        find_files(str(tmp_path / "in"), endings=(".parquet",))
    assert find_files(str(tmp_path / "in/a.parquet"), endings=(".parquet",))  # by its own name it is meant
