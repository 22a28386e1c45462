import json
from pathlib import Path
from typing import Any

import pytest

from detclipv2.text.category_lists import Category, read_categories

LVIS = {
    "id": 1,
    "name": "bow_(weapon)",
    "synset": "bow.n.04",
    "synonyms": ["bow_(weapon)", "longbow"],
    "def": " a weapon for  shooting arrows",
    "frequency": "r",
}
BOW = Category(
    name="bow_(weapon)",
    synonyms=("bow_(weapon)", "longbow"),
    definition="a weapon for shooting arrows",
    frequency="r",
)
CAR = Category(name="car")


@pytest.mark.parametrize(
    ("content", "categories"),
    [
        ([LVIS], [BOW]),
        (
            {"info": {}, "images": [{"id": 1}], "annotations": [], "categories": [LVIS, {"id": 2, "name": "car"}]},
            [BOW, CAR],
        ),
        ([{"id": 2, "name": "car", "supercategory": "vehicle"}], [CAR]),
        (["car", "bow_(weapon)"], [CAR, Category(name="bow_(weapon)")]),
        ({"0": "car", "1": "bus"}, [CAR, Category(name="bus")]),
        ({"car": 0, "bus": 1}, [CAR, Category(name="bus")]),
    ],
)
def test_json(tmp_path: Path, content: Any, categories: list[Category]) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps(content))

    assert read_categories(path) == categories


def test_one_name_a_line(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("\ufeffcar\r\n\r\nTraffic Light\n", encoding="utf-8")

    assert read_categories(path) == [CAR, Category(name="Traffic Light")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", None, "{path} cannot be read as a category list: .*No such file"),
        ("a.json", "[", "{path} cannot be read as a category list: Expecting value"),
        ("a.json", "3", "{path} cannot be read as a category list: wanted a list or an object, got int"),
        ("a.json", "[]", "{path} holds no category"),
        ("a.txt", "\n \n", "{path} holds no category"),
        ("a.json", '["car", " "]', "{path}, category 2: wanted a name, got ' ': empty name"),
        ("a.json", '[{"id": 1}]', "{path}, category 1: wanted a name, got .*'id': 1.*: 'name'"),
        ("a.json", '["car", 3]', "{path}, category 2: wanted a name, got '3'"),
        ("a.json", '[{"name": "car", "def": 3}]', "{path}, category 1: wanted a name"),
        ("a.json", '[{"name": "car", "synonyms": ["_"]}]', "{path}, category 1: wanted a name, got .*: empty name"),
    ],
)
def test_errors(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)

    with pytest.raises(ValueError, match="^" + message.format(path=path)):
        read_categories(path)
