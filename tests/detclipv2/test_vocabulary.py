import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from detclipv2.vocabulary import Vocabulary, load_vocabulary, read_names, save_vocabulary


def test_saved_and_loaded(tmp_path: Path) -> None:
    embeddings = torch.arange(12.0).reshape(4, 3).T  # not contiguous
    names = ["dog", "red apple", 'naïve "café"']
    save_vocabulary(Vocabulary(names=names, embeddings=embeddings), tmp_path / "v.safetensors")

    found = load_vocabulary(tmp_path / "v.safetensors")

    assert found.names == names
    assert torch.equal(found.embeddings, embeddings)


@pytest.mark.parametrize(("metadata", "num_names"), [(None, 0), ({"names": '["dog"]'}, 1)])
def test_names_that_do_not_fit(tmp_path: Path, metadata: dict[str, str] | None, num_names: int) -> None:
    save_file({"embeddings": torch.zeros(2, 3)}, tmp_path / "v.safetensors", metadata=metadata)

    with pytest.raises(ValueError, match=f"v.safetensors: {num_names} names for 2 embeddings; save the model again"):
        load_vocabulary(tmp_path / "v.safetensors")


def test_names_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("dog\n\n  red apple \r\ncafé\n", encoding="utf-8")
    categories = [{"id": 7, "name": "air_conditioner"}, {"id": 9, "name": "dog"}]
    (tmp_path / "lvis.json").write_text(json.dumps({"categories": categories}))
    (tmp_path / "list.JSON").write_text(json.dumps(categories))

    assert read_names(tmp_path / "names.txt") == ["dog", "red apple", "café"]
    assert read_names(tmp_path / "lvis.json") == ["air conditioner", "dog"]
    assert read_names(tmp_path / "list.JSON") == ["air conditioner", "dog"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "none.txt holds no readable names: FileNotFoundError.*one name a line"),
        ("blank.txt", b" \n", "blank.txt holds no names"),
        ("binary.txt", b"\xff\xfe\x00", "binary.txt holds no readable names: UnicodeDecodeError"),
        ("cut.json", b'{"categories": [', "cut.json holds no readable names: JSONDecodeError"),
        ("other.json", b"{}", "other.json holds no readable names: KeyError: 'categories'"),
        ("texts.json", b'["dog"]', "texts.json holds no readable names: TypeError"),
    ],
)
def test_files_without_names(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)

    with pytest.raises(ValueError, match=message):
        read_names(tmp_path / name)
