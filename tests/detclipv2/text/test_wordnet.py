from pathlib import Path

import pytest

from detclipv2.text.wordnet import WordNet


@pytest.mark.parametrize(
    ("name", "definition"),
    [
        ("bow", "a knot with two loops"),  # its most frequent sense, without further clauses and examples
        ("bow tie", "a man's tie (in the form of a bow; short) with loops"),
        ("bow-tie", "a man's tie (in the form of a bow; short) with loops"),
        ("crane", "lifts and moves heavy objects"),  # neither the writer nor the stars: no image of cranes shows them
        ("glass", "a container for holding liquids"),  # things before substances
        ("lemon", "yellow oval fruit with juicy acidic flesh"),  # things before plants
        ("child", "a young person of either sex"),
        ("children", "a young person of either sex"),
        ("person", "a human being"),
        ("idea", "the content of cognition"),  # nothing that an image shows
        ("mice", None),
        ("cars", None),
        ("tie", None),
        ("-", None),
    ],
)
def test_definitions(wordnet_folder: Path, name: str, definition: str | None) -> None:
    assert WordNet(wordnet_folder).definition(name) == definition


@pytest.mark.parametrize("file", ["index.noun", "data.noun", "noun.exc"])
def test_a_folder_without_the_database(wordnet_folder: Path, file: str) -> None:
    (wordnet_folder / file).unlink()

    with pytest.raises(ValueError, match=f"no WordNet database in {wordnet_folder}: .*{file}.*; it needs index.noun"):
        WordNet(wordnet_folder)


def test_data_of_another_version_than_the_index(wordnet_folder: Path) -> None:
    data = wordnet_folder / "data.noun"
    data.write_text("x" + data.read_text())

    with pytest.raises(ValueError, match=f"{wordnet_folder}: the senses of 'car' cannot be read: no synset at [0-9]+"):
        WordNet(wordnet_folder).definition("car")
