import pytest

from detclipv2.data.sides import mirrored_text


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("a dog", "a dog"),
        ("bright leftovers", "bright leftovers"),
        ("a dog on the left", "a dog on the right"),
        ("A dog to the LEFT of the tree.", "A dog to the RIGHT of the tree."),
        ("the man at far right, laughing", "the man at far left, laughing"),
        ("woman on right", "woman on left"),
        ("in the top left and the bottom right of the picture", "in the top right and the bottom left of the picture"),
        ("left shoe", "right shoe"),
        ("Right-hand side of the road", "Left-hand side of the road"),
        ("his left  hand on her right shoulder", "his right  hand on her left shoulder"),
        ("from left to right: Ann, Bob", "from right to left: Ann, Bob"),
        ("Ann (left) and Bob (far right)", "Ann (right) and Bob (far left)"),
        ("the leftmost cup", "the rightmost cup"),
        ("left", "right"),
        ("the far left", "the far right"),
    ],
)
def test_sides_change_places(text: str, mirrored: str) -> None:
    assert mirrored_text(text) == mirrored
    assert mirrored_text(mirrored) == text


@pytest.mark.parametrize(
    "text",
    [
        "what is left over",
        "the food left on the plate",
        "right now",
        "everything is right here",
        "human rights, right?",
        "the right of way",
        "a sign at the right of way",
        "a left-wing politician",
        "she left the house",
        "he left hand in hand with her",
        "his right-hand man",
        "on the right track",
        "the right side up",
        "right whale",
        "turn rightwards",
        "on the left, the right choice",  # one of two alone is a side
        "the left bank of Paris",
    ],
)
def test_what_may_be_no_side_is_not_judged(text: str) -> None:
    assert mirrored_text(text) is None
