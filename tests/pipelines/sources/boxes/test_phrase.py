"""Annotated phrases as texts of boxes."""

import pytest

from pipelines.sources.boxes.phrase import annotated_phrase


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("A young child", "young child"),
        ("the  man 's hat ,", "man 's hat"),
        ("all of the dogs", "of the dogs"),
        ("Their two dogs", "two dogs"),
        ("theater", "theater"),
        ("himself", None),
        ("each other", None),
        ("the", None),
        ("", None),
        ("...", None),
        ("3", None),
        ("3 men", "3 men"),
    ],
)
def test_determiners_go_and_pronouns_are_no_phrase(text: str, wanted: str | None) -> None:
    assert annotated_phrase(text) == wanted
