"""Text and JSON files, and the errors that name them."""

from pathlib import Path

import pytest

from pipelines.sources.input_files import parse_json, read_text


def test_errors_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("first\na window caf\u00e9\n".encode("latin-1"))
    with pytest.raises(
        ValueError, match="latin.txt is not UTF-8: byte 0xe9 in row 2, after 'a window caf'; save it as"
    ):
        read_text(tmp_path / "latin.txt")
    with pytest.raises(ValueError, match="none.txt cannot be read: "):
        read_text(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="a.json is not JSON: "):
        parse_json("{", path=tmp_path / "a.json")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_named(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_text("text", encoding=encoding)
    with pytest.raises(ValueError, match="a.txt is in UTF-16: save it as UTF-8"):
        read_text(tmp_path / "a.txt")


def test_the_mark_at_the_beginning_and_the_ends_of_lines_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert read_text(tmp_path / "a.txt") == "one\ntwo\nthree\n"
