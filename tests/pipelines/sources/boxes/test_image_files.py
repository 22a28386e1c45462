"""Where an image's file is looked for, however its name is written."""

import unicodedata
from pathlib import Path

import pytest

from pipelines.sources.boxes.image_files import IMAGE_ENDINGS, ImageFiles, is_image_name, plain_name

WHERE = Path("annotations.json")
NFD = unicodedata.normalize("NFD", "über.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = (
        "a.jpg",
        "patch8/b.jpg",
        "val2017/000000000139.jpg",
        "décran (1).jpg",
        "UP.JPG",
        "x#1.jpg",
        "50%25.jpg",
        NFD,
    )
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def find(folders: list[Path], *names: str) -> str | None:
    found = ImageFiles(folders).find(names, where=WHERE)
    return None if found is None else found.path.relative_to(folders[0]).as_posix()


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (("a.jpg",), "a.jpg"),
        (("images/v1/patch8/b.jpg",), "patch8/b.jpg"),
        (("/home/pi/images/a.jpg",), "a.jpg"),
        (("none.jpg", "val2017/000000000139.jpg"), "val2017/000000000139.jpg"),
        (("c.jpg",), None),
        (("patch8",), None),
        (("",), None),
        (("a\0.jpg",), None),
        (("images\\a.jpg",), "a.jpg"),
        (("C:\\photos\\patch8\\b.jpg",), "patch8/b.jpg"),
        (("d%C3%A9cran%20(1).jpg",), "décran (1).jpg"),
        (("https://host.test/patch8/b.jpg?width=3#top",), "patch8/b.jpg"),
        (("/data/local-files/?d=patch8%2Fb.jpg&x=1",), "patch8/b.jpg"),
        (("/data/local-files/?d=x%5Cpatch8%5Cb.jpg",), "patch8/b.jpg"),
        (("x#1.jpg",), "x#1.jpg"),
        (("50%25.jpg",), "50%25.jpg"),
        (("a.JPG",), "a.jpg"),
        (("Patch8/B.jpg",), "patch8/b.jpg"),
        (("up.jpg",), "UP.JPG"),
        (("über.png",), NFD),
        ((unicodedata.normalize("NFD", "décran (1).jpg"),), "décran (1).jpg"),
        (("a.*",), "a.jpg"),
        (("up.*",), "UP.JPG"),
        (("sub/c.*", "a.jpg"), "a.jpg"),
    ],
)
def test_a_name_leads_to_its_file(folder: Path, names: tuple[str, ...], wanted: str | None) -> None:
    assert find([folder], *names) == wanted


def test_every_folder_is_searched(folder: Path) -> None:
    assert find([folder, folder / "patch8"], "x/b.jpg") == "patch8/b.jpg"


@pytest.mark.parametrize("name", ["../secret.jpg", "..\\secret.jpg", "%2e%2e/secret.jpg"])
def test_a_name_may_not_leave_its_folder(folder: Path, name: str) -> None:
    (folder / "secret.jpg").touch()
    with pytest.raises(ValueError, match=r"annotations.json: the file name .* leads out of the folder"):
        find([folder / "patch8"], name)


def test_a_whole_name_in_another_case_comes_before_a_part_of_it(tmp_path: Path) -> None:
    for name in ("train/a.jpg", "a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find([tmp_path], "Train/a.jpg") == "train/a.jpg"


def test_the_name_itself_comes_first_and_two_that_fit_are_none(tmp_path: Path) -> None:
    for name in ("A.jpg", "a.JPG"):
        (tmp_path / name).touch()
    assert find([tmp_path], "A.jpg") == "A.jpg"
    assert find([tmp_path], "a.jpg") is None


def test_what_a_file_says_of_its_name(folder: Path) -> None:
    files = ImageFiles([folder, folder / "patch8"])
    names = {"a.jpg": True, "patch8/b.jpg": True, "./a.jpg": True, "x/a.jpg": False, "A.jpg": False, "a.*": True}
    found = {name: files.find([name], where=WHERE) for name in names}
    assert {name: file is not None and file.is_certain for name, file in found.items()} == names
    partly = ImageFiles([folder / "patch8"]).find(["y/patch8/b.jpg"], where=WHERE)
    assert partly is not None
    assert (partly.stripped, partly.num_confirmed, partly.is_certain) == (("y", "patch8"), 1, False)
    second = files.find(["none.jpg", "a.jpg"], where=WHERE)
    assert second is not None and (second.rank, second.is_certain) == (1, False)


def test_image_names_and_what_spellings_have_in_common() -> None:
    assert all(is_image_name(f"a{ending}") and is_image_name(f"a{ending.upper()}") for ending in IMAGE_ENDINGS)
    assert not any(map(is_image_name, ("._a.jpg", ".DS_Store", "a.txt", "a", ".jpg")))
    spellings = ("images/dé.jpg", "images\\d%C3%A9.jpg", "/images/de\u0301.jpg?x=1", "x?d=images/d%C3%A9.jpg&y")
    assert {plain_name(name) for name in spellings} == {"images/dé.jpg"}


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the folder .*none cannot be listed"):
        find([tmp_path / "none"], "a.jpg")
