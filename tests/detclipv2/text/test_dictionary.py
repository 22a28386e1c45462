import hashlib
from pathlib import Path

import pytest

from detclipv2.text.dictionary import (
    ConceptDictionary,
    normalise,
    singulars,
    spellings,
    without_qualifier,
)


@pytest.fixture
def dictionary() -> ConceptDictionary:
    return ConceptDictionary(
        definitions={
            "car": "a motor vehicle",
            "bus (vehicle)": "a vehicle carrying many passengers",
            "bow": "a knot with two loops",
            "glass": "a container",
            "glasses": "a frame with lenses",
            "abaya": None,
            "cars": None,
        }
    )


@pytest.mark.parametrize(
    ("name", "normalised"),
    [
        ("Bow_(weapon)", "bow (weapon)"),
        ("  Traffic\tLight ", "traffic light"),
        ("aerosol__can", "aerosol can"),
        ("_", ""),
    ],
)
def test_normalise(name: str, normalised: str) -> None:
    assert normalise(name) == normalised


def test_without_qualifier() -> None:
    assert without_qualifier("bow (weapon)") == "bow"
    assert without_qualifier("monitor (computer equipment) computer monitor") == (
        "monitor (computer equipment) computer monitor"
    )
    assert without_qualifier("(weapon)") == "(weapon)"


@pytest.mark.parametrize(
    ("plural", "singular"),
    [
        ("wine glasses", "wine glass"),
        ("sneakers", "sneaker"),
        ("knives", "knife"),
        ("wolves", "wolf"),
        ("boxes", "box"),
        ("quizzes", "quizz"),
        ("watches", "watch"),
        ("brushes", "brush"),
        ("firemen", "fireman"),
        ("cherries", "cherry"),
    ],
)
def test_singulars(plural: str, singular: str) -> None:
    assert singular in singulars(plural)


@pytest.mark.parametrize("name", ["dress", "sheep", "s", "", "as"])
def test_what_is_no_plural(name: str) -> None:
    assert singulars(name) == []


def test_spellings_in_their_order() -> None:
    assert list(spellings("Octopuses_(food)")) == ["octopuses (food)", "octopuses", "octopuse", "octopus"]
    assert list(spellings("Cars")) == ["cars", "car"]


@pytest.mark.parametrize(
    ("name", "definition"),
    [
        ("Car", "a motor vehicle"),
        ("cars", "a motor vehicle"),  # an entry without definition does not hide its singular's
        ("bow_(weapon)", "a knot with two loops"),
        ("glasses", "a frame with lenses"),
        ("abaya", None),
        ("bus", None),
        ("motor vehicle", None),
    ],
)
def test_a_definition_by_any_spelling(dictionary: ConceptDictionary, name: str, definition: str | None) -> None:
    assert dictionary.definition(name) == definition


def test_one_file_whatever_the_order(dictionary: ConceptDictionary, tmp_path: Path) -> None:
    backwards = ConceptDictionary(definitions=dict(reversed(dictionary.definitions.items())))
    path = tmp_path / "new" / "concepts.json"
    backwards.save(path)

    assert list(backwards.definitions) == sorted(backwards.definitions)
    assert ConceptDictionary.load(path) == dictionary == backwards
    assert backwards.defined == ["bow", "bus (vehicle)", "car", "glass", "glasses"]
    assert dictionary.digest == backwards.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    other = ConceptDictionary(definitions=dictionary.definitions | {"abaya": "a robe"})
    assert other.digest != dictionary.digest
    assert [file.name for file in path.parent.iterdir()] == ["concepts.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no concept dictionary in {path}: .*No such file.*`detclip dictionary --help`"),
        ('{"layout_version": 1', "no concept dictionary in {path}: Expecting"),
        ("[]", "{path}: layout None of a concept dictionary, this version reads 1; make it again"),
        ('{"layout_version": 2, "definitions": {}}', "{path}: layout 2 of a concept dictionary"),
        ('{"layout_version": 1}', "{path}: 'definitions' is not an object of texts and nulls"),
        ('{"layout_version": 1, "definitions": {"car": 3}}', "{path}: 'definitions' is not an object"),
        ('{"layout_version": 1, "definitions": {"Car": null}}', "{path}: concept 'Car' is not normalised.* 'car'"),
        ('{"layout_version": 1, "definitions": {"": null}}', "{path}: concept '' is not normalised"),
        ('{"layout_version": 1, "definitions": {"car": " "}}', "{path}: concept 'car' has an empty definition"),
    ],
)
def test_damaged_files(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "concepts.json"
    if text is not None:
        path.write_text(text)

    with pytest.raises(ValueError, match="^" + message.format(path=path)):
        ConceptDictionary.load(path)
