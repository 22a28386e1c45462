"""Tables on disk: complete or absent, the same bytes for the same rows, and named reasons."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.build.job import Job
from pipelines.build.publish import publish as publish_table
from pipelines.storage import (
    DROPPED,
    KEPT,
    WHOLE,
    PublishedTable,
    TableFile,
    Written,
    format_counts,
    kept_files,
    locked,
    read_table,
    verify,
    write_parquet,
    write_split,
)

SCHEMA = pa.schema([pa.field("key", pa.string(), nullable=False)])


def rows(keys: dict[str, str | None]) -> pa.Table:
    """A stage's output: keys with their drop reasons."""
    columns = [pa.array(list(keys), pa.string()), pa.array(list(keys.values()), pa.string())]
    return pa.table(columns, names=["key", "drop_reason"])


def write_rows(keys: dict[str, str | None], folder: Path) -> Written:
    return write_split(rows(keys), folder, schema=SCHEMA, where="test")


def publish(job: Job, *, root: Path) -> PublishedTable:
    with locked(root, job.stage) as lease:
        return publish_table(job, root=root, lease=lease)


def write_to_full_device(folder: Path) -> Written:
    (folder / "images.tar").symlink_to("/dev/full")
    (folder / "images.tar").write_bytes(b"an image")
    raise AssertionError("the device takes nothing")


def write_and_fail(folder: Path) -> Written:
    (folder / KEPT).write_bytes(b"half a table")
    raise KeyError("a defect")


JOB = Job(
    stage="filtered",
    version=1,
    shard="s-00000",
    config={"min_side_px": 200},
    num_rows=3,
    work=partial(write_rows, {"a": None, "b": "image_too_small", "c": None}),
)


def test_publish_writes_a_verified_table_with_its_counts(tmp_path: Path) -> None:
    table = publish(JOB, root=tmp_path)

    assert table.folder == tmp_path / "filtered" / JOB.fingerprint[:16]
    assert pq.read_table(table.folder / KEPT).to_pydict() == {"key": ["a", "c"]}
    assert pq.read_table(table.folder / DROPPED).to_pydict() == {"key": ["b"], "drop_reason": ["image_too_small"]}
    assert (table.manifest.rows_in, table.manifest.rows_kept) == (3, 2)
    assert table.manifest.dropped == {"image_too_small": 1}
    assert {entry.path: entry.num_rows for entry in table.manifest.files} == {DROPPED: 1, KEPT: 2}
    assert verify(table) is None
    assert read_table(tmp_path, JOB.stage, JOB.fingerprint) == table


def test_the_same_rows_give_the_same_bytes_whatever_their_chunks_and_metadata(tmp_path: Path) -> None:
    whole = rows({"a": None, "b": "x"})
    chunked = pa.concat_tables([whole.slice(0, 1), whole.slice(1)]).replace_schema_metadata({"pandas": "index"})
    write_parquet(whole, tmp_path / "whole.parquet")
    write_parquet(chunked, tmp_path / "chunked.parquet")

    assert (tmp_path / "whole.parquet").read_bytes() == (tmp_path / "chunked.parquet").read_bytes()


def test_nothing_published_holds_the_root_or_a_time(tmp_path: Path) -> None:
    first, second = (publish(JOB, root=tmp_path / name).folder for name in ("one", "two"))

    names = sorted(path.name for path in first.iterdir())
    assert names == ["MANIFEST.json", DROPPED, KEPT]
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "other"},
        {"version": 2},
        {"config": {"min_side_px": 100}},
        {"inputs": (TableFile(name="images/s-00000/kept.parquet", path=Path("x"), sha256="0" * 64, num_rows=1),)},
    ],
)
def test_the_fingerprint_follows_stage_version_config_and_inputs(change: dict[str, object]) -> None:
    assert dataclasses.replace(JOB, **change).fingerprint != JOB.fingerprint


def test_the_fingerprint_ignores_where_an_input_lies() -> None:
    here = TableFile(name="images/s/kept.parquet", path=Path("/here"), sha256="0" * 64, num_rows=1)
    there = dataclasses.replace(here, path=Path("/there"))

    assert dataclasses.replace(JOB, inputs=(here,)).fingerprint == dataclasses.replace(JOB, inputs=(there,)).fingerprint


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda path: path.unlink(), "kept.parquet is missing"),
        (lambda path: path.write_bytes(b"x"), "kept.parquet has 1 bytes, not "),
        (lambda path: path.write_bytes(path.read_bytes()[::-1]), "kept.parquet is corrupt"),
    ],
)
def test_verify_names_the_file_and_publishing_again_fixes_it(damage, problem: str, tmp_path: Path) -> None:
    table = publish(JOB, root=tmp_path)
    damage(table.folder / KEPT)

    assert str(verify(table)).startswith(problem)
    assert verify(publish(JOB, root=tmp_path)) is None


def test_a_complete_table_is_never_replaced(tmp_path: Path) -> None:
    table = publish(JOB, root=tmp_path)
    before = (table.folder / KEPT).stat()

    assert publish(JOB, root=tmp_path) == table
    assert (table.folder / KEPT).stat().st_ino == before.st_ino


def test_a_full_disk_names_the_file_and_publishes_nothing(tmp_path: Path) -> None:
    job = dataclasses.replace(JOB, work=write_to_full_device)

    with pytest.raises(
        ValueError, match=r"filtered s-00000: cannot write images\.tar in .*filtered: No space left on device"
    ):
        publish(job, root=tmp_path)
    assert [path.name for path in (tmp_path / "filtered").iterdir()] == [".lock"]


def test_a_worker_that_outlives_its_build_publishes_nothing(tmp_path: Path) -> None:
    with locked(tmp_path, "filtered") as lease:
        pass
    with pytest.raises(RuntimeError, match="filtered s-00000: the build that wanted this table has ended"):
        publish_table(JOB, root=tmp_path, lease=lease)
    with locked(tmp_path, "filtered"), pytest.raises(RuntimeError, match="has ended"):
        publish_table(JOB, root=tmp_path, lease=lease)

    assert [path.name for path in (tmp_path / "filtered").iterdir()] == [".lock"]


def test_a_failed_job_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="a defect"):
        publish(dataclasses.replace(JOB, work=write_and_fail), root=tmp_path)
    assert [path.name for path in (tmp_path / "filtered").iterdir()] == [".lock"]


def test_a_folder_without_its_manifest_is_no_table(tmp_path: Path) -> None:
    table = publish(JOB, root=tmp_path)
    (table.folder / "MANIFEST.json").write_text(json.dumps({"stage": "filtered"}))

    assert read_table(tmp_path, JOB.stage, JOB.fingerprint) is None


def test_a_table_of_another_job_with_the_same_folder_name_is_not_taken(tmp_path: Path) -> None:
    publish(JOB, root=tmp_path)

    assert read_table(tmp_path, JOB.stage, JOB.fingerprint[:16] + "0" * 48) is None


def test_locking_sweeps_what_a_killed_build_left(tmp_path: Path) -> None:
    leftover = tmp_path / "filtered" / ".tmp-0123456789abcdef-1a2b3c4d"
    leftover.mkdir(parents=True)
    (leftover / "images.tar").write_bytes(b"half")
    kept = publish(JOB, root=tmp_path).folder

    with locked(tmp_path, "filtered"):
        assert not leftover.exists()
        assert kept.exists()


def test_a_data_root_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("a file")

    with (
        pytest.raises(ValueError, match="cannot write in the data root: .*root/filtered: Not a directory"),
        locked(tmp_path / "root", "filtered"),
    ):
        pass


def test_a_stage_that_leaves_out_a_column_is_told_so(tmp_path: Path) -> None:
    table = pa.table({"drop_reason": pa.array([None], pa.string())})

    with pytest.raises(ValueError, match=r"filtered of x: missing column\(s\) \['key'\]"):
        write_split(table, tmp_path, schema=SCHEMA, where="filtered of x")


def test_kept_files_are_found_by_shard_in_both_layouts(tmp_path: Path) -> None:
    def write_whole(folder: Path) -> Written:
        for shard in ("s-00001", "s-00000"):
            write_rows({shard: None}, folder / shard)
        return Written(rows_in=2, rows_kept=2, num_rows={"s-00000/kept.parquet": 1})

    by_shard = {"s-00000": publish(JOB, root=tmp_path)}
    whole = {WHOLE: publish(dataclasses.replace(JOB, stage="dedup", shard=WHOLE, work=write_whole), root=tmp_path)}

    assert {shard: file.name for shard, file in kept_files(by_shard).items()} == {
        "s-00000": "filtered/s-00000/kept.parquet"
    }
    files = kept_files(whole)
    assert [(shard, file.name) for shard, file in files.items()] == [
        ("s-00000", "dedup/s-00000/kept.parquet"),
        ("s-00001", "dedup/s-00001/kept.parquet"),
    ]
    assert pq.read_table(files["s-00001"].path).to_pydict() == {"key": ["s-00001"]}


def test_counts_read_from_the_largest_down() -> None:
    assert format_counts({"dns": 48, "http_404": 1136, "connection": 48}) == "http_404 1,136, connection 48, dns 48"
