"""Images of this machine with captions: pairs of one image, shards that grow, and what is counted."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.fetch.download import IMAGES_TAR_NAME
from pipelines.fetch.ingest import Ingest
from pipelines.sources.captions.captioned_images import CaptionedImages
from pipelines.sources.source import ImagePairSource
from pipelines.storage.tars import read_tar
from schemas.source_images import ImagePair

Noise = Callable[..., bytes]


def source(folder: Path, captions: dict[str, list[str]], **options: int) -> CaptionedImages:
    """Of a table with these captions by file name."""
    rows = [{"file_name": name, "text": text} for name, texts in captions.items() for text in texts]
    folder.mkdir(exist_ok=True)
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return CaptionedImages(captions=folder / "metadata.jsonl", name="own", **options)


def pairs(of: CaptionedImages) -> list[ImagePair]:
    return [pair for shard in of.shards() for pair in shard.read()]


def test_pairs_of_an_image_share_its_url_and_follow_each_other(tmp_path: Path) -> None:
    for name in ("1.jpg", "2.JPG"):
        (tmp_path / name).write_bytes(name.encode())
    of = source(tmp_path, {"2.jpg": ["a cat"], "1.jpg": ["a dog", "a brown dog"], "./2.JPG": ["a black cat"]})
    assert isinstance(of, ImagePairSource)
    assert pairs(of) == [
        ImagePair(url="images://own/1.jpg", caption="a dog", image=b"1.jpg"),
        ImagePair(url="images://own/1.jpg", caption="a brown dog", image=b"1.jpg"),
        ImagePair(url="images://own/2.JPG", caption="a cat", image=b"2.JPG"),
        ImagePair(url="images://own/2.JPG", caption="a black cat", image=b"2.JPG"),
    ]
    assert str(tmp_path) not in str([(shard.config, pair.url) for shard in of.shards() for pair in shard.read()])


def test_what_cannot_be_used_is_counted(tmp_path: Path) -> None:
    for name in ("1.jpg", "2.heic", "3.jpg", "a/4.jpg", "b/4.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * (99 if name == "3.jpg" else 9))
    names = ["1.jpg", "2.heic", "3.jpg", "4.jpg", "../1.jpg", "5.jpg"]
    of = source(tmp_path, {name: ["a dog"] for name in names}, max_image_bytes=50)
    assert [(pair.url.removeprefix("images://own/"), pair.drop_reason) for pair in pairs(of)] == [
        ("../1.jpg", "image_outside_folder"),
        ("1.jpg", None),
        ("2.heic", "image_kind_unknown"),
        ("3.jpg", "too_large"),
        ("4.jpg", "image_ambiguous"),
        ("5.jpg", "image_missing"),
    ]
    shards = of.shards()
    (tmp_path / "1.jpg").unlink()
    assert [pair.drop_reason for pair in shards[0].read()][1] == "image_missing"  # it was there when they were listed


def test_new_images_at_the_end_leave_full_shards_as_they_are(tmp_path: Path) -> None:
    names = [f"{i}.jpg" for i in range(7)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    before = source(tmp_path, {name: ["a", "b"] for name in names[:5]}, images_per_shard=2).shards()
    after = source(tmp_path, {name: ["a", "b"] for name in names}, images_per_shard=2).shards()
    assert [shard.name for shard in after] == [f"own-{i:05d}" for i in range(4)]
    assert [shard.num_pairs for shard in after] == [4, 4, 4, 2]
    assert [shard.config for shard in before[:2]] == [shard.config for shard in after[:2]]
    assert before[2].config != after[2].config

    (tmp_path / names[0]).write_bytes(b"another size")
    changed = source(tmp_path, {name: ["a", "b"] for name in names}, images_per_shard=2).shards()
    assert [one.config == other.config for one, other in zip(after, changed, strict=True)] == [False, True, True, True]
    other = source(tmp_path, {name: ["a", "c" if name == "6.jpg" else "b"] for name in names}, images_per_shard=2)
    assert [one.config == other.config for one, other in zip(changed, other.shards(), strict=True)] == [True] * 3 + [
        False
    ]


def test_folders_of_others_and_none_at_all(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_bytes(b"one")
    of = source(tmp_path / "lists", {"1.jpg": ["a dog"]})
    with pytest.raises(
        ValueError,
        match=r"metadata.jsonl: none of its 1 images is below .*lists; the first looked for is '1.jpg': name",
    ):
        of.shards()
    (pair,) = pairs(CaptionedImages(captions=of.captions, images=(tmp_path / "photos",), name="own"))
    assert (pair.url, pair.image) == ("images://own/1.jpg", b"one")


def test_texts_without_an_image_are_counted(tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_text("a dog")
    of = CaptionedImages(captions=tmp_path, name="own")
    with pytest.raises(ValueError, match="none of its 1 images is below .*; the first looked for is '1.txt'"):
        of.shards()
    (tmp_path / "2.jpg").write_bytes(b"two")
    (tmp_path / "2.txt").write_text("a cat")
    assert [(pair.caption, pair.drop_reason) for pair in pairs(of)] == [("a dog", "image_missing"), ("a cat", None)]


def test_a_folder_without_an_image(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("image,caption\n")
    with pytest.raises(ValueError, match="no caption was found: captions.txt holds none"):
        CaptionedImages(captions=tmp_path, name="own").shards()


def test_they_are_stored_as_those_of_the_web_are(tmp_path: Path, noise: Noise) -> None:
    for name, format in (("1.jpg", "JPEG"), ("2.png", "PNG"), ("3.webp", "WEBP")):
        (tmp_path / name).write_bytes(noise(int(name[0]), format=format))
    (tmp_path / "4.jpg").write_bytes(b"no image")
    of = source(
        tmp_path, {"1.jpg": ["a dog", "a dog", "caf\ufffd"], "2.png": ["a cat"], "3.webp": ["  "], "4.jpg": ["x"]}
    )
    table = Ingest().run((pair for shard in of.shards() for pair in shard.read()), source="own", folder=tmp_path)
    reasons = Counter(zip(table["url"].to_pylist(), table["drop_reason"].to_pylist(), strict=True))
    assert {(url.rpartition("/")[2], reason): count for (url, reason), count in reasons.items()} == {
        ("1.jpg", None): 1, ("1.jpg", "duplicate_pair"): 1, ("1.jpg", "caption_damaged"): 1, ("2.png", None): 1,
        ("3.webp", "caption_empty"): 1, ("4.jpg", "not_an_image"): 1,
    }  # fmt: skip
    kept = table.filter(pa.compute.is_null(table["drop_reason"]))
    assert [sample.key for sample in read_tar(tmp_path / IMAGES_TAR_NAME)] == kept["key"].to_pylist()


def test_the_real_captions_of_coco(shared_data: Path) -> None:
    folder = shared_data / "coco_ccby"
    content = json.loads((folder / "captions.json").read_text())
    with_caption = {annotation["image_id"] for annotation in content["annotations"]}
    found = pairs(CaptionedImages(captions=folder / "captions.json", images=(folder / "images",), name="coco"))

    reasons = Counter(pair.drop_reason for pair in found)
    assert reasons == {None: len(content["annotations"]), "caption_missing": len(content["images"]) - len(with_caption)}
    assert reasons == {None: 415, "caption_missing": 40}
    names = {image["id"]: image["file_name"] for image in content["images"]}
    wanted = Counter((f"images://coco/{names[a['image_id']]}", a["caption"]) for a in content["annotations"])
    assert Counter((pair.url, pair.caption) for pair in found if pair.drop_reason is None) == wanted
    assert all(
        pair.image == (folder / "images" / Path(pair.url).name).read_bytes() for pair in found if not pair.drop_reason
    )


def test_the_real_captions_of_groceries(shared_data: Path) -> None:
    folder = shared_data / "grocery_mosaics"
    lines = (folder / "captions.csv").read_text().splitlines()
    found = pairs(CaptionedImages(captions=folder / "captions.csv", images=(folder / "web",), name="groceries"))
    assert Counter(pair.drop_reason for pair in found) == {None: len(lines) - 1}
