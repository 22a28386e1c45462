import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.stages.segments import segments_of


@pytest.mark.parametrize(
    ("caption", "segments"),
    [
        ("#RedApple #red-apple #owl", ["Red Apple", "red apple", "owl"]),
        ("red_apple on-a-wooden-table three-year-old", ["red apple on a wooden table three-year-old"]),
        ("Villa - Heated Pool | Shop • Spain / Sun", ["Villa", "Heated Pool", "Shop", "Spain", "Sun"]),
        ("close - up of a cat | cats", ["close - up of a cat", "cats"]),
        ("airplane, turtle, hat - buy prints online", ["airplane", "turtle", "hat", "buy prints online"]),
        ("Kite, beer mug, a crab", ["Kite, beer mug, a crab"]),
        ("a day at the #beach with friends", ["a day at the", "beach", "with friends"]),
        ("two  spaces\tand a tab", ["two spaces and a tab"]),
        ("# ## #a", ["a"]),
        ("", []),
    ],
)
def test_segments_of(caption, segments):
    assert [segment.text for segment in segments_of(caption)] == segments


def test_offsets_by_hand():
    hashtag, slug = segments_of("x #aB_c-d | e-f-g-h")[1:]
    assert (hashtag.text, list(hashtag.offsets)) == ("a B c d", [3, 4, 4, 5, 6, 7, 8])
    assert (slug.text, list(slug.offsets)) == ("e f g h", [12, 13, 14, 15, 16, 17, 18])


@given(st.text(alphabet="aBc#-_,|/. \t\u0130é", max_size=40))
def test_every_character_stands_where_its_offset_says(caption):
    """Or is a space that stands for a separator, for white space, or for the letter that follows it."""
    for segment in segments_of(caption):
        assert segment.text
        assert len(segment.text) == len(segment.offsets)
        assert list(segment.offsets) == sorted(segment.offsets)
        for i, (character, offset) in enumerate(zip(segment.text, segment.offsets, strict=True)):
            if character == caption[offset]:
                continue
            assert character == " "
            assert caption[offset] in "-_ \t" or segment.offsets[i + 1] == offset
