"""One file is one image: what becomes of entries that share a file, have none, or are held out."""

from pathlib import Path

import pytest

from pipelines.sources.boxes.image_index import Entry, ImageIndex, Shared, Split, file_key, index_images
from pipelines.sources.held_out_images import HeldOutImages

WHERE = Path("annotations.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.jpg", "patch8/b.jpg", "val2017/000000000139.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def index(folder: Path, *entries: tuple[str, str, int], shared: Shared = "merge") -> ImageIndex:
    return index_images(
        [Entry(key=key, names=(name,), num_boxes=count, handle=key.upper()) for key, name, count in entries],
        folders=[folder],
        digest="d",
        vocabulary=["dog", "cat", "dog"],
        where=WHERE,
        num_orphans=3,
        shared=shared,
    )


def test_what_is_missing_is_counted_in_boxes_and_named(folder: Path) -> None:
    found = index(folder, ("c", "c.jpg", 5), ("b", "b/patch8/b.jpg", 2), ("a", "a.jpg", 1))

    assert (found.keys, found.handles) == (("a", "b"), (("A",), ("B",)))
    assert (found.lost_boxes, found.vocabulary) == ({"image_missing": 5 + 3}, ("cat", "dog"))
    assert found.notes == (f"annotations.json: 1 of 3 images not found; the first is 'c.jpg', looked for in {folder}",)


def test_what_is_held_out_by_name_is_counted_whether_its_file_is_there_or_not(folder: Path) -> None:
    entries = ("c", "c.jpg", 5), ("a", "a.jpg", 1), ("v", "000000000139.jpg", 7), ("w", "000000000140.jpg", 9)
    (folder / "000000000139.jpg").touch()
    found = index(folder, *entries).choose(split="all", held_out=HeldOutImages(coco_ids=frozenset({139, 140})))

    assert found.keys == ("a",)
    assert (found.lost_boxes, found.num_held_out) == ({"image_missing": 5 + 3, "held_out": 7 + 9}, 2)
    alone = index(folder, ("v", "val2017/000000000139.jpg", 1))
    with pytest.raises(ValueError, match=r"annotations.json: none of its 1 images is left: 1 of them are held out"):
        alone.choose(split="all", held_out=HeldOutImages(coco_ids=frozenset({139})))
    with pytest.raises(ValueError, match=r"annotations.json: none of its 1 images is left: every 5th is held out"):
        alone.choose(split="held_out", held_out=None)


def test_both_sides_of_the_split_count_alike_and_training_counts_every_box(tmp_path: Path) -> None:
    for i in range(11):
        (tmp_path / f"{i:012d}.jpg").touch()
    whole = index(tmp_path, *((f"{i:02d}", f"{i:012d}.jpg", 1) for i in range(11)))
    held_out = HeldOutImages(coco_ids=frozenset({0, 9}))
    sides: dict[Split, ImageIndex] = {
        "train": whole.choose(split="train", held_out=held_out),
        "held_out": whole.choose(split="held_out", held_out=None),
    }

    assert sides["held_out"].keys == ("04", "09")
    assert sides["train"].keys == ("01", "02", "03", "05", "06", "07", "08", "10")
    assert sides["train"].lost_boxes == {"image_missing": 3, "held_out": 1 + 2}
    assert sides["held_out"].lost_boxes == {}


def test_one_file_is_one_image(folder: Path) -> None:
    (folder / "link.jpg").symlink_to(folder / "a.jpg")
    entries = ("1", "a.jpg", 2), ("2", "patch8/b.jpg", 1), ("3", "./a.jpg", 3), ("4", "link.jpg", 1)
    merged = index(folder, *entries)

    assert (merged.keys, merged.handles) == (("1", "2"), (("1", "3", "4"), ("2",)))
    assert merged.num_boxes == (6, 1)
    assert merged.notes == (
        "annotations.json: 1 images are listed more than once, first a.jpg; each has the boxes of all its entries",
    )
    assert index(folder, *entries, shared="apart").handles == (("1",), ("2",), ("3",), ("4",))
    with pytest.raises(ValueError, match=r"annotations.json: 1 and 3 have one image, .*a.jpg: keep one of the two"):
        index(folder, *entries, shared="refuse")


def test_a_name_found_in_part_never_takes_the_file_of_another(tmp_path: Path) -> None:
    (tmp_path / "job1").mkdir()
    (tmp_path / "job1" / "f.jpg").touch()
    both = ("1", "job1/f.jpg", 2), ("2", "job2/f.jpg", 3)

    found = index(tmp_path / "job1", *both)
    assert (found.keys, found.lost_boxes) == (("1",), {"image_missing": 3 + 3})
    assert index(tmp_path / "job1", ("1", "x/job1/f.jpg", 2), both[1]).keys == ("1",)
    assert index(tmp_path / "job1", ("1", "f.jpg", 2), both[1]).keys == ("1",)
    assert index(tmp_path / "job1", ("1", "f.jpg", 2), ("2", "job1/f.jpg", 1)).handles == (("1", "2"),)
    (tmp_path / "job1").rename(tmp_path / "photos")
    with pytest.raises(ValueError, match=r"'job1/f.jpg' and 'job2/f.jpg' both lead to .*photos/f.jpg, each in part"):
        index(tmp_path / "photos", *both)
    one_name = index(tmp_path / "photos", both[0], ("2", "job1\\f.jpg", 1))
    assert one_name.handles == (("1", "2"),)


def test_a_name_in_another_case_is_not_a_second_entry(tmp_path: Path) -> None:
    (tmp_path / "p.jpg").touch()
    found = index(tmp_path, ("1", "P.JPG", 2), ("2", "p.jpg", 3))
    assert (found.keys, found.lost_boxes) == (("2",), {"image_missing": 2 + 3})


def test_errors_by_their_message(folder: Path) -> None:
    with pytest.raises(
        ValueError,
        match="annotations.json: two images, 'a.jpg' and 'b.jpg', have the key 'a'; each needs one of its own",
    ):
        index(folder, ("a", "a.jpg", 1), ("a", "b.jpg", 1))
    with pytest.raises(
        ValueError, match=r"annotations.json: 1 of 1 images not found; the first is 'c.jpg', looked for in"
    ):
        index(folder, ("a", "c.jpg", 1))
    with pytest.raises(ValueError, match=r"annotations.json: it has no images"):
        index(folder)


def test_a_key_is_plain_and_of_its_own() -> None:
    assert file_key("a-b_1") == "a-b_1"
    assert file_key("a b").startswith("a_b-") and file_key("a b") != file_key("a/b")
    assert len(file_key("x" * 90)) < 80
