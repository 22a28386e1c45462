"""Where an image's file is looked for, and what becomes of those without one."""

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


def index(folder: Path, *entries: tuple[str, str, int], held_out: HeldOutImages | None = None) -> ImageIndex:
    return index_images(
        [Entry(key=key, names=(name,), num_boxes=count, handle=key.upper()) for key, name, count in entries],
        folders=[folder],
        held_out=held_out,
        digest="d",
        vocabulary=["dog", "cat", "dog"],
        where=WHERE,
        num_orphans=3,
    )


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (("a.jpg",), "a.jpg"),
        (("images/v1/patch8/b.jpg",), "patch8/b.jpg"),
        (("/home/pi/images/a.jpg",), "a.jpg"),
        (("none.jpg", "val2017/000000000139.jpg"), "val2017/000000000139.jpg"),
        (("c.jpg",), None),
        (("patch8",), None),
    ],
)
def test_a_name_is_tried_without_its_leading_folders(folder: Path, names: tuple[str, ...], wanted: str | None) -> None:
    assert find_image(names, [folder], where=WHERE) == (None if wanted is None else folder / wanted)


def test_every_folder_is_searched(folder: Path) -> None:
    assert find_image(["x/b.jpg"], [folder, folder / "patch8"], where=WHERE) == folder / "patch8" / "b.jpg"


def test_a_name_may_not_leave_its_folder(folder: Path) -> None:
    (folder / "secret.jpg").touch()
    with pytest.raises(ValueError, match=r"annotations.json: the file name '../secret.jpg' leads out of the folder"):
        find_image(["../secret.jpg"], [folder / "patch8"], where=WHERE)


def test_what_is_left_out_is_counted_in_boxes(folder: Path) -> None:
    held_out = HeldOutImages(coco_ids=frozenset({139}))
    found = index(
        folder, ("c", "c.jpg", 5), ("b", "b/patch8/b.jpg", 2), ("a", "a.jpg", 1), ("v", "000000000139.jpg", 7),
        held_out=held_out,
    )  # fmt: skip

    assert (found.keys, found.handles) == (("a", "b"), ("A", "B"))
    assert found.lost_boxes == {"image_missing": 5 + 3, "held_out": 7}
    assert (found.num_held_out, found.vocabulary) == (1, ("cat", "dog"))


def test_errors_by_their_message(folder: Path) -> None:
    with pytest.raises(ValueError, match="annotations.json: two images have the key 'a'; each needs one of its own"):
        index(folder, ("a", "a.jpg", 1), ("a", "b.jpg", 1))
    with pytest.raises(ValueError, match=r"annotations.json: none of its 1 images is in the folder .*"):
        index(folder, ("a", "c.jpg", 1))
    held_out = HeldOutImages(coco_ids=frozenset({139}))
    with pytest.raises(ValueError, match=r"none of its 2 images that is not held out \(1 are\) is in the folder"):
        index(folder, ("a", "c.jpg", 1), ("v", "val2017/000000000139.jpg", 1), held_out=held_out)
