"""Objects365: its names, and where its images are."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.sources.boxes.objects365 import INCOMPLETE, MISSPELT, Objects365, corrected_name


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("Person", "person"),
        ("Moniter/TV", "monitor or tv"),
        ("Tape Measur/ Ruler", "tape measure or ruler"),
        ("tape measure/ruler", "tape measure or ruler"),
        ("Cosmetics Brush/Eyeliner Pencil", "cosmetics brush or eyeliner pencil"),
        ("Cigar/Cigarette ", "cigar or cigarette"),
        ("Formula 1 ", "formula 1 car"),
        ("Hotair ballon", "hot air balloon"),
        ("French", "french horn"),
        ("french fries", "french fries"),
        ("Table Teniis paddle", "table tennis paddle"),
        ("bread/bun", "bread or bun"),
    ],
)
def test_names_are_corrected(name: str, wanted: str) -> None:
    assert corrected_name(name) == wanted


def test_correcting_twice_changes_nothing_more() -> None:
    for table in (MISSPELT, INCOMPLETE):
        assert all(wrong == " ".join(wrong.lower().split()) != right for wrong, right in table.items())
        assert all(corrected_name(right) == corrected_name(wrong) for wrong, right in table.items())
        assert all(corrected_name(corrected_name(wrong)) == corrected_name(wrong) for wrong in table)


def test_real_names_stay_distinct_and_every_known_misspelling_is_corrected(shared_data: Path) -> None:
    categories = json.loads((shared_data / "category_lists" / "objects365_v2_categories.json").read_text())
    names = [category["name"] for category in categories]

    assert len({corrected_name(name) for name in names}) == 365
    # What others corrected, this table corrects: they differ only where the words are run together.
    for category in categories:
        theirs, ours = category["name_fixed"].lower(), corrected_name(category["name"])
        if theirs != category["name"].lower():
            assert ours == theirs.replace("/ ", "/").replace("/", " or ")
    # An entry of the table that no version of the data needs would be a mistake in the table itself.
    v1_only = {"hotair balloon", "meat balls", "pine apple"}
    assert {*MISSPELT, *INCOMPLETE} - {name.strip().lower() for name in names} == v1_only


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower().replace("_", " ")))


def test_no_misspelt_word_is_left(shared_data: Path) -> None:
    """Each word occurs in LVIS's names and definitions, in V3Det's names or in web captions, or was checked by eye."""
    lists = shared_data / "category_lists"
    lvis = json.loads((lists / "lvis_v1_categories.json").read_text())
    known = words((lists / "v3det_13204_names.txt").read_text())
    known |= words(next((shared_data / "cc3m_val_captions").glob("*.tsv")).read_text())
    known |= {word for entry in lvis for text in [*entry["synonyms"], entry["def"]] for word in words(text)}
    names = [entry["name"] for entry in json.loads((lists / "objects365_v2_categories.json").read_text())]

    unknown = {word for name in names for word in words(corrected_name(name))} - known
    assert unknown == {"baozi", "extractor", "eyeliner", "hami", "hoverboard", "modem", "slippers", "surveillance"}
    wrong = {word for name in names for word in words(name)} - known - unknown
    assert wrong == {
        "bakset", "ballon", "billards", "buttefly", "campel", "dinning", "extention", "hotair", "measur", "moniter",
        "mushroon", "noddles", "skiboard", "teniis", "tong",
    }  # fmt: skip


def test_the_patch_folder_is_found_below_any_folder(tmp_path: Path, noise: Callable[..., bytes]) -> None:
    content = {
        "images": [
            {"id": 420917, "file_name": "images/v1/patch8/objects365_v1_00420917.jpg", "width": 40, "height": 30}
        ],
        "annotations": [
            {"image_id": 420917, "category_id": 53, "bbox": [1, 2, 3, 4], "iscrowd": 0},
            {"image_id": 420917, "category_id": 53, "bbox": [1, 2, 30, 20], "iscrowd": 1},
        ],
        "categories": [{"id": 53, "name": "Bakset"}],
    }
    (tmp_path / "zhiyuan.json").write_text(json.dumps(content))
    (tmp_path / "train" / "patch8").mkdir(parents=True)
    (tmp_path / "train" / "patch8" / "objects365_v1_00420917.jpg").write_bytes(noise())
    for folder in (tmp_path / "train", tmp_path / "train" / "patch8"):
        source = Objects365(annotations=tmp_path / "zhiyuan.json", images=(folder,))
        (image,) = source.read(0, 1)
        assert (image.sample.concepts, image.sample.boxes_xyxy) == (["basket"], [(1, 2, 4, 6)])
        assert image.dropped_boxes == {"crowd": 1}
        assert source.vocabulary() == ["basket"]
        assert "names_sha256" in source.config
