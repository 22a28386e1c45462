"""Ids and hashes of evaluation held_out_set."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import imagehash
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.sources.boxes.side_resizer import SideResizer
from pipelines.sources.held_out_images import (
    HASHES,
    HeldOutImages,
    coco_id,
    hash_images,
    held_out_images,
    read_hashes,
    read_ids,
)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("000000000139.jpg", 139),
        ("val2017/000000581781.JPG", 581781),
        ("http://images.cocodataset.org/val2017/000000000139.jpg", 139),
        ("COCO_val2014_000000266409.jpg", 266409),
        ("objects365_v1_00420917.jpg", None),
        ("2370799.jpg", None),
        ("a000000000139.jpg", None),
        ("000000000139.jpg.html", None),
        ("201512345678.jpg", None),
    ],
)
def test_the_id_of_a_file_name(name: str, wanted: int | None) -> None:
    assert coco_id(name) == wanted


def test_ids_in_every_form(tmp_path: Path) -> None:
    forms = {
        "a.json": "[139, 285]",
        "b.json": json.dumps({"images": [{"id": 139}, {"id": 285}], "annotations": []}),
        "c.txt": "./images/val2017/000000000139.jpg\n\n285\n",
    }
    for name, text in forms.items():
        (tmp_path / name).write_text(text)
        assert read_ids(tmp_path / name) == {139, 285}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "a.json is not JSON"),
        ("a.json", '{"annotations": []}', "a.json is neither a list of ids nor COCO JSON with a list 'images'"),
        ("a.json", '[1, "2"]', "a.json: entry 1 has the id '2'; it must be a whole number"),
        ("a.json", '{"images": [{}]}', "a.json: entry 0 has the id None"),
        ("a.json", "[]", "a.json holds no id"),
        ("a.txt", "139\ncat.jpg", "a.txt: row 2, 'cat.jpg', is neither an id nor a COCO file name"),
    ],
)
def test_errors_of_id_lists(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_ids(tmp_path / name)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none.txt cannot be read"):
        read_ids(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="there is no image under "):
        hash_images(tmp_path)
    with pytest.raises(ValueError, match="none.parquet cannot be read"):
        read_hashes(tmp_path / "none.parquet")
    with pytest.raises(ValueError, match="name what is held out: lists of ids, hashes of images, or both"):
        held_out_images()
    (tmp_path / "x.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match="x.jpg cannot be decoded"):
        hash_images(tmp_path)
    pq.write_table(pa.table({"sha256": ["a"]}), tmp_path / "h.parquet")
    with pytest.raises(ValueError, match=r"h.parquet: missing column\(s\) \['file_name', 'phash'\]"):
        read_hashes(tmp_path / "h.parquet")


def test_hashes_come_back_from_a_file(tmp_path: Path, noise: Callable[..., bytes]) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.png").write_bytes(noise(1, format="PNG"))
    (tmp_path / "a.jpg").write_bytes(noise(2))
    hashes = hash_images(tmp_path)
    assert hashes.schema == HASHES
    assert hashes["file_name"].to_pylist() == ["a.jpg", "sub/b.png"]
    pq.write_table(hashes, tmp_path / "h.parquet")
    assert read_hashes(tmp_path / "h.parquet") == hashes
    (tmp_path / "ids.txt").write_text("139")
    held_out_set = held_out_images(ids=[tmp_path / "ids.txt"], hashes=hashes)
    assert held_out_set.coco_ids == {139}
    assert held_out_set.config["num_hashes"] == 2
    assert held_out_set.config != HeldOutImages(sha256=held_out_set.sha256, phashes=held_out_set.phashes).config


@pytest.mark.parametrize(("max_distance", "num_near"), [(0, 100), (1, 200), (2, 400), (3, 600)])
def test_near_hashes_equal_a_double_loop(max_distance: int, num_near: int) -> None:
    rng = np.random.default_rng(0)
    held_out = [int(bits) for bits in rng.integers(0, 2**64, 40, np.uint64)]
    flips = [0, 1 << 63, 0b11, (1 << 63) | 1, 0b111, 0b1011 << 40]
    phashes = [f"{held_out[i % 40] ^ flips[i % 6]:016x}" for i in range(600)] + [None, f"{5:016x}"]
    held_out_set = HeldOutImages(phashes=frozenset(f"{bits:016x}" for bits in held_out), max_distance=max_distance)

    wanted = [p is not None and any((int(p, 16) ^ q).bit_count() <= max_distance for q in held_out) for p in phashes]
    assert held_out_set.is_near(phashes).tolist() == wanted
    assert (sum(wanted), wanted[-2:]) == (num_near, [False, False])
    assert not HeldOutImages().is_near(phashes).any()


def test_real_photos_are_found_again_when_stored_smaller(shared_data: Path) -> None:
    """Images of one half are held out: all of them are found re-encoded and shrunk, and none of the other half is."""
    paths = sorted((shared_data / "coco_ccby" / "images").glob("*.jpg"))[:60]
    images = [Image.open(path).convert("RGB") for path in paths]
    held_out_set = HeldOutImages(phashes=frozenset(str(imagehash.phash(image)) for image in images[::2]))
    found = []
    for image in images:
        buffer = io.BytesIO()
        image.resize((image.width * 2 // 3, image.height * 2 // 3), Image.Resampling.BOX).save(
            buffer, "JPEG", quality=90
        )
        found.append(SideResizer(max_side_px=1333, has_phash=True)(buffer.getvalue()).phash)
    assert held_out_set.is_near(found).tolist() == [True, False] * 30


def test_the_real_minival_lists_agree(shared_data: Path) -> None:
    folder = shared_data / "lvis_minival_ids"
    ids = read_ids(folder / "minival.txt")
    assert ids == read_ids(folder / "minival_ids.json")
    assert len(ids) == 4809
    assert HeldOutImages(coco_ids=ids).has_name(["x.jpg", "val2017/000000000139.jpg"])
