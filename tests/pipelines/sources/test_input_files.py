"""Text and JSON files, and the errors that name them."""

from pathlib import Path

import pytest

from pipelines.sources.input_files import parse_json, read_text


def test_errors_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"\xff")
    for name in ("latin.txt", "none.txt"):
        with pytest.raises(ValueError, match=f"{name} cannot be read: "):
            read_text(tmp_path / name)
    with pytest.raises(ValueError, match="a.json is not JSON: "):
        parse_json("{", path=tmp_path / "a.json")
