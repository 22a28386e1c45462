"""What goes and, above all, what stays."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.inspect.built_dataset import BuiltDataset
from pipelines.inspect.gc import collect, referenced_tables
from pipelines.storage import locked
from tests.pipelines.inspect.conftest import build

ROOT = Path(__file__).resolve().parents[3]


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file() and path.name != ".lock"}


def test_all_of_a_dataset_stays(dataset: BuiltDataset) -> None:
    before = files(dataset.root)

    assert collect(dataset.root, delete=True) == []
    assert files(dataset.root) == before
    assert {name.split("/")[0] for name in referenced_tables(dataset.root)} == {
        *("images", "filtered", "balanced", "phrase_counts", "statistics"),
        *("image_text_shards", "detection_shards", "validation"),
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

    assert sorted({item.folder.parent.name for item in found}) == [
        *("balanced", "filtered", "images", "phrase_counts", "statistics")
    ]
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


def test_what_an_unfinished_build_has_so_far_stays(tmp_path: Path) -> None:
    """The first build of a dataset is killed in its images: one table stands, one download is under way."""
    code = f"""
import os, signal
from functools import partial
from pathlib import Path
from rich.console import Console
from pipelines.build.runner import Runner
from pipelines.build.job import Job
from pipelines.storage import Written

def work(shard, folder, *, spool):
    spool.mkdir()
    (spool / "images").write_bytes(b"half")
    if shard == "b":
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "images.tar").write_bytes(b"whole")
    return Written(rows_in=1, rows_kept=1)

jobs = [
    Job(stage="images", version=1, shard=s, config={{"s": s}}, num_rows=1, work=partial(work, s), is_resumed=True)
    for s in "ab"
]
Runner(Path({str(tmp_path)!r}), dataset="small", console=Console(quiet=True)).run("images", jobs, where="here")
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == -signal.SIGKILL
    (table,) = (path.parent.name for path in tmp_path.glob("images/*/MANIFEST.json"))
    (spool,) = (path for path in (tmp_path / "images").glob(".spool-*"))
    (tmp_path / "images" / ".spool-0123456789abcdef").mkdir()  # of settings that nobody has any more
    (tmp_path / "images" / ".spool-0123456789abcdef" / "images").write_bytes(b"old")

    (found,) = collect(tmp_path, delete=True)
    assert (found.folder.name, found.num_bytes, found.why) == (".spool-0123456789abcdef", 3, "a killed build left it")
    assert (tmp_path / "images" / table / "images.tar").is_file()
    assert (spool / "images").read_bytes() == b"half"

    spool.rename(spool.with_name(f".spool-{table}"))  # as if killed between publishing and removing
    with locked(tmp_path, "images"):
        assert [path.name for path in (tmp_path / "images").iterdir() if path.is_dir()] == [table]


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
