"""Files by path, folder, glob and URL."""

from pathlib import Path

import fsspec
import pytest

from pipelines.sources.captions.remote_files import DataFile, find_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b/2.tar", "b/1.tar", "a/3.tar", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode() * 10)
    (tmp_path / "a" / "4.TAR").symlink_to(tmp_path / "a" / "notes.txt")
    return tmp_path


def names(path: object) -> list[str]:
    return [file.name for file in find_files(str(path), endings=(".tar",))]


def test_a_file_a_folder_and_a_glob(folder: Path) -> None:
    assert names(folder) == ["a/3.tar", "a/4.TAR", "b/1.tar", "b/2.tar"]
    assert names(folder / "b") == ["1.tar", "2.tar"]
    assert names(folder / "*" / "[13].tar") == ["a/3.tar", "b/1.tar"]
    assert names(folder / "a" / "notes.txt") == ["notes.txt"]
    assert names(folder / "b*" / "*.tar") == ["b/1.tar", "b/2.tar"]  # the same when a folder b2 is added
    (file,) = find_files(f"file://{folder}/b/1.tar", endings=(".tar",))
    assert (file.name, file.num_bytes) == ("1.tar", 70)
    with file.open() as content:
        assert content.read() == b"b/1.tar" * 10


def test_hidden_files_are_passed_over(folder: Path) -> None:
    for name in ("b/._1.tar", "__MACOSX/b/1.tar"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\0\5\x16\7")
    assert names(folder) == ["a/3.tar", "a/4.TAR", "b/1.tar", "b/2.tar"]
    assert names(folder / "b" / "*.tar") == ["1.tar", "2.tar"]


def test_a_name_with_brackets_is_no_glob(tmp_path: Path) -> None:
    for name in ("x[1].tar", "x1.tar"):
        (tmp_path / name).write_bytes(name.encode())
    (file,) = find_files(str(tmp_path / "x[1].tar"), endings=(".tar",))
    with file.open() as content:
        assert content.read() == b"x[1].tar"


def test_a_relative_path_is_found_from_another_folder(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (file,) = find_files("b/1.tar", endings=(".tar",))
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with file.open() as content:
        assert content.read(3) == b"b/1"


def test_a_store_in_memory_is_read_alike() -> None:
    memory = fsspec.filesystem("memory")
    for name in ("2.tar", "1.tar"):
        memory.pipe(f"/mirror/{name}", name.encode())
    try:
        files = find_files("memory://mirror/*.tar", endings=(".tar",))
        assert [file.name for file in files] == ["1.tar", "2.tar"]
        with files[1].open() as content:
            assert content.read() == b"2.tar"
    finally:
        memory.rm("/mirror", recursive=True)


@pytest.mark.parametrize("is_whole", [True, False])
def test_the_identity_follows_the_content_alone(tmp_path: Path, is_whole: bool) -> None:
    identities = []
    for i, content in enumerate((b"a" * 200_000, b"a" * 200_000, b"a" * 199_999 + b"b", b"b" + b"a" * 199_999)):
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / "x.tar").write_bytes(content)
        (file,) = find_files(str(tmp_path / str(i)), endings=(".tar",))
        identities.append(file.identity(is_whole=is_whole))
    assert identities[0] == identities[1]
    assert len({str(identity) for identity in identities}) == 3


def test_what_the_store_knows_of_the_content_stands_for_it() -> None:
    file = DataFile(url="s3://bucket/x.tar", name="x.tar", num_bytes=3, content_id="ETag:abc")
    assert file.identity(is_whole=True) == {"name": "x.tar", "num_bytes": 3, "content_id": "ETag:abc"}


def test_errors_by_their_message(folder: Path) -> None:
    with pytest.raises(ValueError, match="none cannot be listed: FileNotFoundError"):
        names(folder / "none")
    with pytest.raises(ValueError, match=r"\*.zip: there is no .tar file"):
        names(folder / "*.zip")
    with pytest.raises(ValueError, match="nosuch://x cannot be listed: ValueError: Protocol not known: nosuch"):
        names("nosuch://x")
    (file,) = find_files(str(folder / "b" / "1.tar"), endings=(".tar",))
    (folder / "b" / "1.tar").unlink()
    with pytest.raises(ValueError, match="b/1.tar cannot be opened"), file.open():
        pass
