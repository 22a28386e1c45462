"""Images found by the names that annotations give them, and never outside their folders."""

import os
import unicodedata
from pathlib import Path

import pytest

from pipelines.sources.captions.image_folders import FoundFile, ImageFolders

NFC, NFD = (unicodedata.normalize(form, "café.jpg") for form in ("NFC", "NFD"))


def folders(tmp_path: Path, *names: str, tops: tuple[str, ...] = ("images",)) -> ImageFolders:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return ImageFolders(tuple(tmp_path / top for top in tops))


def find(searched: ImageFolders, *names: str) -> list[str]:
    """Below its folder, the file of each name, or the reason in brackets."""
    found = searched.find(names)
    return [f"[{answer}]" if isinstance(answer := found[name], str) else answer.name for name in names]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("1.jpg", "1.jpg"), ("1.jpg", "./1.jpg"), ("1.JPG", "1.jpg"), ("a/1.jpg", "a\\1.jpg"), ("a b.jpg", "a%20b.jpg"),
        ("a%20b.jpg", "a%20b.jpg"), (NFC, NFD), (NFD, NFC), ("Images/1.jpg", "1.jpg"), ("1.jpg", "val2017/1.jpg"),
        ("1.jpg", "/data/of/others/1.jpg"), ("1.jpg", "C:\\data\\1.jpg"), ("a b.jpg", "file:///data/a%20b.jpg"),
        ("a/1.jpg", "file:a/1.jpg"),
    ],
)  # fmt: skip
def test_a_name_fits_its_file(tmp_path: Path, file: str, name: str) -> None:
    assert find(folders(tmp_path, f"images/{file}", "images/other.jpg"), name) == [file]


@pytest.mark.parametrize("name", ["../secret.jpg", "a/../../secret.jpg", "..\\secret.jpg", "file:///a/../secret.jpg"])
def test_no_name_leads_out(tmp_path: Path, name: str) -> None:
    assert find(folders(tmp_path, "images/1.jpg", "secret.jpg"), name) == ["[image_outside_folder]"]


def test_links_within_are_followed_and_others_are_not(tmp_path: Path) -> None:
    searched = folders(tmp_path, "images/1.jpg", "secret.jpg")
    (tmp_path / "images" / "in.jpg").symlink_to(tmp_path / "images" / "1.jpg")
    (tmp_path / "images" / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (tmp_path / "images" / "nowhere.jpg").symlink_to(tmp_path / "none.jpg")
    os.mkfifo(tmp_path / "images" / "pipe.jpg")
    assert find(searched, "in.jpg", "out.jpg") == ["in.jpg", "[image_outside_folder]"]
    assert find(searched, "nowhere.jpg", "pipe.jpg") == ["[image_missing]"] * 2


def test_what_is_not_clear_is_not_guessed(tmp_path: Path) -> None:
    searched = folders(tmp_path, "images/a/1.jpg", "images/b/1.jpg", "images/2.jpg", "images/c/3.jpg")
    assert find(searched, "1.jpg", "a/1.jpg", "d/1.jpg") == ["[image_ambiguous]", "a/1.jpg", "[image_missing]"]
    # Frames of two videos, of which one folder is at hand.
    assert find(searched, "job1/2.jpg", "job2/2.jpg") == ["[image_ambiguous]"] * 2
    assert find(searched, "3.jpg", "c/3.jpg") == ["[image_ambiguous]"] * 2
    assert find(searched, "./2.jpg", "2.jpg", "2.JPG") == ["2.jpg"] * 3


def test_several_folders(tmp_path: Path) -> None:
    searched = folders(tmp_path, "one/1.jpg", "two/2.jpg", "one/3.jpg", "two/3.jpg", tops=("one", "two"))
    assert find(searched, "1.jpg", "2.jpg", "3.jpg") == ["1.jpg", "2.jpg", "[image_ambiguous]"]
    assert find(searched, str(tmp_path / "one" / "1.jpg")) == ["1.jpg"]
    nested = ImageFolders((tmp_path, tmp_path / "one"))
    assert [file.name for file in nested.files] == ["one/1.jpg", "one/3.jpg", "two/2.jpg", "two/3.jpg"]


def test_hidden_files_are_passed_over_and_texts_are_no_images(tmp_path: Path) -> None:
    searched = folders(tmp_path, "images/._1.jpg", "images/1.JPG", "images/1.txt")
    assert [file.name for file in searched.images] == ["1.JPG"]
    assert searched.find([]) == {}
    assert searched.find(["1.txt"]) == {
        "1.txt": FoundFile(name="1.txt", path=tmp_path / "images" / "1.txt", num_bytes=12)
    }


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the folder .*/none cannot be listed: No such file"):
        find(ImageFolders((tmp_path / "none",)), "1.jpg")
