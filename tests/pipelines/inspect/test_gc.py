"""What goes and, above all, what stays."""

from pathlib import Path

import pytest

from pipelines.inspect.dataset import BuiltDataset
from pipelines.inspect.gc import collect, referenced_tables
from tests.pipelines.inspect.conftest import build


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file() and path.name != ".lock"}


def test_all_of_a_dataset_stays(dataset: BuiltDataset) -> None:
    before = files(dataset.root)

    assert collect(dataset.root, delete=True) == []
    assert files(dataset.root) == before
    assert {name.split("/")[0] for name in referenced_tables(dataset.root)} == {
        *("images", "filtered", "balanced", "image_text_shards", "detection_shards", "validation")
    }


def test_what_another_configuration_made_goes_and_what_an_older_manifest_names_stays(dataset: BuiltDataset) -> None:
    root = dataset.root
    before = {path for path in files(root) if path.startswith("images/")}
    build(root, version=2)  # other tables of images, filtered and balanced, with the same content
    num_bytes = sum((root / path).stat().st_size for path in before)

    found = collect(root, delete=False)
    assert sorted({item.folder.parent.name for item in found}) == ["balanced", "filtered", "images"]
    assert {item.why for item in found} == {"no dataset refers to it"}
    assert sum(item.num_bytes for item in found if item.folder.parent.name == "images") == num_bytes
    assert before <= files(root), "a dry run removes nothing"

    assert collect(root, delete=True) == found
    assert not before & files(root)
    assert collect(root, delete=False) == []
    build(root, version=2)
    assert collect(root, delete=False) == []


def test_shards_of_an_older_version_of_a_dataset_stay(dataset: BuiltDataset) -> None:
    older = dataset.folder / "0123456789abcdef.json"
    older.write_text((dataset.folder / "MANIFEST.json").read_text())
    (dataset.folder / "MANIFEST.json").unlink()
    for state in (dataset.folder / "tables").glob("*.json"):
        state.write_text("{}")
    found = collect(dataset.root, delete=True)

    assert sorted({item.folder.parent.name for item in found}) == ["balanced", "filtered", "images"]
    assert all((dataset.root / shard.path).is_file() for shard in dataset.manifest.supervisions["image_text"].shards)


def test_leftovers_of_killed_builds_go(dataset: BuiltDataset) -> None:
    for name in (".tmp-0123456789abcdef-1a2b3c4d", "0123456789abcdef"):
        (dataset.root / "images" / name).mkdir()
        (dataset.root / "images" / name / "images.tar").write_bytes(b"half")
    (dataset.root / "images" / "notes").mkdir()  # nobody's business
    (dataset.root / "images" / "notes" / "a.txt").write_text("x")

    found = collect(dataset.root, delete=False)
    assert [(item.num_bytes, item.why) for item in found] == [(4, "a killed build left it")] * 2
    assert all(item.folder.exists() for item in found)
    collect(dataset.root, delete=True)
    assert not any(item.folder.exists() for item in found)
    assert (dataset.root / "images" / "notes" / "a.txt").exists()


def test_a_folder_that_is_no_data_root(tmp_path: Path) -> None:
    (tmp_path / "images" / "0123456789abcdef").mkdir(parents=True)

    with pytest.raises(ValueError, match=f"{tmp_path} holds no dataset: is it a data root"):
        collect(tmp_path, delete=True)
    assert (tmp_path / "images" / "0123456789abcdef").exists()


def test_a_manifest_that_cannot_be_read_stops_everything(dataset: BuiltDataset) -> None:
    (dataset.folder / "other.json").write_text("{}")

    with pytest.raises(ValueError, match="other.json is no dataset manifest: move it elsewhere first"):
        collect(dataset.root, delete=True)


@pytest.mark.slow
def test_in_an_object_store(bucket) -> None:
    root = build(bucket / "data").root
    (root / "images" / "0123456789abcdef" / "images.tar").write_bytes(b"half")
    assert [(item.num_bytes, item.why) for item in collect(root, delete=False)] == [(4, "a killed build left it")]

    build(root, version=2)
    found = collect(root, delete=True)
    assert sorted({item.folder.parent.name for item in found}) == ["balanced", "filtered", "images"]
    assert collect(root, delete=False) == []
