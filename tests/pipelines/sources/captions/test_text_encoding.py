"""Texts as they are in the world: with and without a mark, and those that are refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.sources.captions.remote_files import find_files
from pipelines.sources.captions.text_encoding import decode_text, text_lines, text_or_none

UNICODE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"))


@given(UNICODE, st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]))
def test_every_marked_text_comes_back(text: str, encoding: str) -> None:
    assert decode_text(text.encode(encoding)) == text


@given(st.binary())
def test_bytes_are_text_without_replacements_or_refused(content: bytes) -> None:
    try:
        text = decode_text(content)
    except ValueError:
        return
    assert ("\ufffd" in text) <= ("\ufffd".encode() in content or content[:2] in (b"\xff\xfe", b"\xfe\xff"))
    assert text_or_none(text) == text


@pytest.mark.parametrize(
    "content", ["windowcafé".encode("latin-1"), "a dog".encode("utf-16-le"), b"\xff\xfea", b"a\0b"]
)
def test_what_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever the codec says
        decode_text(content)


@pytest.mark.parametrize("value", [None, 3, ["a"], b"a", "\ud800", "a\0b"])
def test_what_is_no_text(value: object) -> None:
    assert text_or_none(value) is None


def test_a_line_that_is_not_utf8_is_named_with_a_guess(tmp_path: Path) -> None:
    lines = ["une pomme rouge posée sur la table près de la fenêtre du café\n"] * 3
    (tmp_path / "x.txt").write_bytes(lines[0].encode() + "".join(lines).encode("cp1252"))
    (file,) = find_files(str(tmp_path / "x.txt"), endings=())
    found = text_lines(file)
    assert next(found) == lines[0]
    with pytest.raises(ValueError, match=r"x.txt: row 2 is not UTF-8 \(it may be \w+\): save it as UTF-8"):
        next(found)
