import json
from pathlib import Path

import pytest

from detclipv2.cli import main
from detclipv2.text.build_dictionary import build_dictionary, own_definitions
from detclipv2.text.category_lists import Category
from detclipv2.text.dictionary import ConceptDictionary
from detclipv2.text.wordnet import WordNet

WEAPON = Category(
    name="bow_(weapon)", synonyms=("bow_(weapon)", "longbow"), definition="a weapon for arrows", frequency="r"
)
RIBBON = Category(name="bow_(decorative_ribbons)", definition="a decorative knot", frequency="f")
CAP = Category(name="cap_(headwear)", definition="a tight-fitting headwear", frequency="c")
BOTTLE_CAP = Category(
    name="bottle_cap", synonyms=("bottle_cap", "cap_(container_lid)"), definition="a top for a bottle", frequency="f"
)


@pytest.mark.parametrize("order", [1, -1])
def test_who_defines_a_text_that_several_claim(order: int) -> None:
    pistol = Category(name="pistol", synonyms=("gun", "arm"), definition="a firearm held in one hand", frequency="c")
    gun = Category(name="gun", synonyms=("arm",), definition="a weapon that discharges", frequency="r")
    rifle = Category(name="rifle", synonyms=("gun", "arm"), definition="a long firearm", frequency="f")

    own = own_definitions([WEAPON, RIBBON, CAP, BOTTLE_CAP, pistol, gun, rifle, Category(name="dog")][::order])

    assert own == {
        "bow (weapon)": "a weapon for arrows",
        "longbow": "a weapon for arrows",
        "bow (decorative ribbons)": "a decorative knot",
        "bow": "a decorative knot",  # both names: the more frequent one
        "cap (headwear)": "a tight-fitting headwear",
        "cap": "a tight-fitting headwear",  # a name goes before a synonym of something more frequent
        "bottle cap": "a top for a bottle",
        "cap (container lid)": "a top for a bottle",
        "pistol": "a firearm held in one hand",
        "gun": "a weapon that discharges",  # the category of this name, though the rarest
        "rifle": "a long firearm",
        "arm": "a long firearm",  # a synonym of all: the most frequent one
    }


def test_the_first_of_equals() -> None:
    first, second = (Category(name="bat", definition=text) for text in ("an animal", "a stick"))

    assert own_definitions([first, second]) == {"bat": "an animal"}


def test_own_definitions_go_before_wordnet(wordnet_folder: Path) -> None:
    names = ["Cars", "bow tie", "Bows", "crane (machine)", "abaya", "children", "dresses"]

    dictionary = build_dictionary([WEAPON, *(Category(name=name) for name in names)], wordnet=WordNet(wordnet_folder))

    assert dictionary.definitions == {
        "abaya": None,
        "bow": "a weapon for arrows",
        "bow (weapon)": "a weapon for arrows",
        "bow tie": "a man's tie (in the form of a bow; short) with loops",
        "bows": "a weapon for arrows",
        "cars": "a motor vehicle with four wheels",
        "children": "a young person of either sex",
        "crane (machine)": "lifts and moves heavy objects",
        "dresses": "a one-piece garment for a woman",
        "longbow": "a weapon for arrows",
    }


def test_without_wordnet() -> None:
    assert build_dictionary([RIBBON, Category(name="car")]).definitions == {
        "bow": "a decorative knot",
        "bow (decorative ribbons)": "a decorative knot",
        "car": None,
    }


@pytest.fixture
def lists(tmp_path: Path) -> list[str]:
    lvis, names = tmp_path / "lvis.json", tmp_path / "names.txt"
    entry = {"name": "bow_(weapon)", "synonyms": ["longbow"], "def": "a weapon for arrows", "frequency": "r"}
    lvis.write_text(json.dumps([entry]))
    names.write_text("Cars\nabaya\n")
    return [str(lvis), str(names)]


def test_the_command(
    lists: list[str],
    wordnet_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "concepts.json"
    arguments = ["--out", str(out), "--wordnet", str(wordnet_folder), "--categories", *lists]
    monkeypatch.setattr("sys.argv", ["detclip", "dictionary", *arguments])

    main()

    assert ConceptDictionary.load(out).definitions == {
        "abaya": None,
        "bow": "a weapon for arrows",
        "bow (weapon)": "a weapon for arrows",
        "cars": "a motor vehicle with four wheels",
        "longbow": "a weapon for arrows",
    }
    assert capsys.readouterr().out.splitlines() == [
        f"{out}: 5 concepts, 4 with a definition (3 from category lists, 1 from WordNet)",
        f"  {lists[0]}: 1 categories, 2 names, 2 with a definition",
        f"  {lists[1]}: 2 categories, 2 names, 1 with a definition",
    ]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["nothing.json"], "error: nothing.json cannot be read as a category list:"),
        ([], "error: --categories: name one category list at least"),
        (["lvis.json", "--wordnet", "nowhere"], "error: no WordNet database in nowhere:"),
    ],
)
def test_an_error_is_one_line(
    lists: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "concepts.json"
    categories = [*lists, *more] if more else []
    monkeypatch.setattr("sys.argv", ["detclip", "dictionary", "--out", str(out), "--categories", *categories])

    with pytest.raises(SystemExit) as stop:
        main()

    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1
    assert not out.exists()
