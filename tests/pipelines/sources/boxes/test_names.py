"""Names that are one: one spelling wins, whatever the source."""

import string

from hypothesis import given
from hypothesis import strategies as st

from detclipv2.text.dictionary import normalise
from pipelines.sources.boxes.names import concept_key, one_spelling, respelled_note, spaced, spellings


def test_names_are_written_as_a_person_does() -> None:
    assert spaced(" bow_(weapon)  x\u3000") == "bow (weapon) x"
    assert spaced("Apple") == "Apple"


@given(st.text())
def test_the_rule_is_that_of_training(name: str) -> None:
    assert concept_key(name) == normalise(name)
    assert spaced(spaced(name)) == spaced(name)


@given(st.lists(st.text(string.ascii_letters + " _", min_size=1, max_size=3)))
def test_every_concept_has_one_spelling_the_first(names: list[str]) -> None:
    spelling_of = spellings(names)
    assert spelling_of.keys() == set(names)
    for name, spelling in spelling_of.items():
        assert spelling == next(other for other in names if concept_key(other) == concept_key(name))
    assert one_spelling(names) == sorted(set(spelling_of.values()))


def test_the_first_of_several_sources_wins() -> None:
    assert one_spelling(["Traffic light", "cat", "traffic_light", "Cat"]) == ["Traffic light", "cat"]


def test_a_note_is_one_line() -> None:
    (note,) = respelled_note({f"A{i}": f"a{i}" for i in range(7)})
    assert note.startswith("names that differ in case, blanks or underscores alone are one: 'A0' as 'a0', ")
    assert note.endswith("'A4' as 'a4', and 2 more")
