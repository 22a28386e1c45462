from pathlib import Path

import pytest

LICENCE = "  1 This database is made up for tests, in WordNet's format.  \n"
# Lemmas in the index's order; a synset is (lexicographer file, is an instance, gloss), the most frequent sense first.
NOUNS = {
    "bow": [
        ("06", False, 'a knot with two loops; used to tie shoelaces; "a bow in her hair"'),
        ("06", False, "a weapon for shooting arrows"),
    ],
    "bow_tie": [("06", False, "a man's tie (in the form of a bow; short) with loops; worn at night")],
    "car": [("06", False, "a motor vehicle with four wheels; usually propelled by an engine")],
    "child": [("18", False, "a young person of either sex")],
    "crane": [
        ("18", True, "United States writer (1871-1900)"),
        ("17", True, "a small constellation"),
        ("06", False, "lifts and moves heavy objects"),
        ("05", False, "large long-necked wading bird"),
    ],
    "dress": [("06", False, "a one-piece garment for a woman")],
    "glass": [("27", False, "a brittle transparent solid"), ("06", False, "a container for holding liquids")],
    "idea": [("09", False, "the content of cognition")],
    "lemon": [("20", False, "a small evergreen tree"), ("13", False, "yellow oval fruit with juicy acidic flesh")],
    "person": [("03", False, "a human being")],
}
EXCEPTIONS = "children child\nmice mouse\n"


@pytest.fixture
def wordnet_folder(tmp_path: Path) -> Path:
    """A database of a dozen nouns; the index refers to bytes of the data, as WordNet's does."""
    index, data = LICENCE, LICENCE
    for lemma, senses in NOUNS.items():
        places = []
        for file, is_instance, gloss in senses:
            places.append(f"{len(data):08d}")
            pointer = "@i" if is_instance else "@"
            data += f"{places[-1]} {file} n 01 {lemma} 0 001 {pointer} 00000000 n 0000 | {gloss}  \n"
        index += f"{lemma} n {len(places)} 1 @ {len(places)} 0 {' '.join(places)}  \n"
    folder = tmp_path / "wordnet"
    folder.mkdir()
    (folder / "index.noun").write_text(index)
    (folder / "data.noun").write_text(data)
    (folder / "noun.exc").write_text(EXCEPTIONS)
    return folder
