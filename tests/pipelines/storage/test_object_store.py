"""Tables in an object store: complete or absent whatever is killed, verified, locked, and fetched once."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from pipelines import storage
from pipelines.build.job import Job
from pipelines.build.publish import publish as publish_table
from pipelines.storage import (
    KEPT,
    PublishedTable,
    TableFile,
    Written,
    data_root,
    fetch,
    locked,
    locks,
    read_table,
    verify,
    verify_content,
    write_split,
)
from pipelines.storage.file_cache import abandoned_work, cached_files, remove_oldest, unused_bytes
from pipelines.storage.table_store import remove_table

SCHEMA = pa.schema([pa.field("key", pa.string(), nullable=False)])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(locks, "EXPIRY_S", 6.0)
    monkeypatch.setattr(locks, "_POLL_S", 0.05)


def write_rows(folder: Path) -> Written:
    (folder / "images").mkdir()
    (folder / "images" / "a.jpg").write_bytes(b"image")
    table = pa.table({"key": ["a", "b"], "drop_reason": pa.array([None, "dns"], pa.string())})
    return write_split(table, folder, schema=SCHEMA, where="test")


JOB = Job(stage="filtered", version=1, shard="s-00000", config={}, num_rows=2, work=write_rows)


def publish(root: UPath, job: Job = JOB) -> PublishedTable:
    with locked(root, job.stage) as lease:
        return publish_table(job, root=root, lease=lease)


def names(root: UPath) -> list[str]:
    start = f"{root.path}/"
    return sorted(path.removeprefix(start) for path in root.fs.find(root.path))


def test_a_table_is_uploaded_whole_and_read_through_the_cache(bucket: UPath, cache_folder: Path) -> None:
    root = bucket / "data"
    table = publish(root)

    folder = f"filtered/{JOB.fingerprint[:16]}"
    files = ["MANIFEST.json", "TAGS.json", "dropped.parquet", "images/a.jpg", "kept.parquet"]
    assert names(root) == [f"{folder}/{name}" for name in files], "no lease, no leftover"
    assert read_table(root, JOB.stage, JOB.fingerprint) == table
    assert verify(table) is verify_content(table) is None
    assert pq.read_table(table.file(KEPT).local()).to_pydict() == {"key": ["a"]}
    assert not list((cache_folder / "scratch").iterdir())


def test_the_manifest_is_that_of_a_local_root(bucket: UPath, tmp_path: Path) -> None:
    assert publish(bucket / "data").manifest == publish(tmp_path).manifest


def test_a_file_is_fetched_once(bucket: UPath, cache_folder: Path) -> None:
    file = publish(bucket / "data").file(KEPT)
    first = file.local()
    inode = first.stat().st_ino
    file.path.unlink()

    assert file.local() == first == cache_folder / "files" / file.sha256 / KEPT
    assert first.stat().st_ino == inode


def test_a_remote_file_of_another_content_is_refused_and_not_kept(bucket: UPath, cache_folder: Path) -> None:
    file = publish(bucket / "data").file(KEPT)
    file.path.write_bytes(b"other")

    with pytest.raises(ValueError, match=r"s3://.*kept.parquet is not what its manifest says: build the dataset again"):
        file.local()
    assert cached_files() == []


def test_a_local_file_is_its_own_copy(tmp_path: Path) -> None:
    assert fetch(tmp_path / "x", sha256="0") == tmp_path / "x"


def test_the_copies_that_were_not_used_for_longest_go_first(bucket: UPath, cache_folder: Path) -> None:
    table = publish(bucket / "data")
    now = time.time()
    copies = [table.file(name).local() for name in ("kept.parquet", "dropped.parquet", "images/a.jpg")]
    for age_s, path in zip((7200, 9000, 10), copies, strict=True):
        os.utime(path, (now - age_s, now - age_s))
    kept, dropped, image = (path.stat().st_size for path in copies)

    assert unused_bytes() == kept + dropped
    assert remove_oldest(max_bytes=image + kept) == dropped
    assert [path.exists() for path in copies] == [True, False, True]
    assert remove_oldest(max_bytes=0) == kept, "what was used a moment ago may be in use"
    assert [path.exists() for path in copies] == [False, False, True]


def test_work_that_nobody_goes_on_with_is_found(cache_folder: Path) -> None:
    now = time.time()
    for name, age_s in (("killed", 2 * 86400), ("running", 60)):
        image = cache_folder / "scratch" / f".tmp-{name}" / "images" / "a.jpg"
        image.parent.mkdir(parents=True)
        image.write_bytes(b"12345")
        os.utime(image, (now - age_s, now - age_s))

    assert [(work.folder.name, work.num_bytes) for work in abandoned_work()] == [(".tmp-killed", 5)]


def test_verify_reads_a_listing_where_tags_are_as_noted(bucket: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    table = publish(bucket / "data")
    read = []
    original = storage.table_store.sha256_file
    monkeypatch.setattr(storage.table_store, "sha256_file", lambda path: read.append(path.name) or original(path))

    assert verify(table) is None
    assert read == []
    (table.folder / "TAGS.json").unlink()  # as in a mirror whose tags differ
    assert verify(table) is None
    assert sorted(read) == ["a.jpg", "dropped.parquet", "kept.parquet"]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda path: path.unlink(), "kept.parquet is missing"),
        (lambda path: path.write_bytes(b"x"), "kept.parquet has 1 bytes, not "),
        (lambda path: path.write_bytes(path.read_bytes()[::-1]), "kept.parquet is corrupt"),
    ],
)
def test_damage_is_named_and_publishing_again_fixes_it(damage, problem: str, bucket: UPath) -> None:
    table = publish(bucket / "data")
    damage(table.folder / KEPT)

    assert str(verify(table)).startswith(problem)
    assert str(verify_content(table)).startswith(problem)
    assert verify_content(publish(bucket / "data")) is None


def test_a_complete_table_is_never_replaced(bucket: UPath) -> None:
    table = publish(bucket / "data")
    before = table.folder.fs.info((table.folder / KEPT).path)["LastModified"]
    time.sleep(1.1)  # the resolution of the server's clock

    assert publish(bucket / "data") == table
    assert table.folder.fs.info((table.folder / KEPT).path)["LastModified"] == before


def test_what_an_interrupted_upload_left_is_no_table_and_is_replaced(bucket: UPath) -> None:
    folder = bucket / "data" / "filtered" / JOB.fingerprint[:16]
    (folder / "kept.parquet").write_bytes(b"half")
    (folder / "stray.parquet").write_bytes(b"of another attempt")

    assert read_table(bucket / "data", JOB.stage, JOB.fingerprint) is None
    table = publish(bucket / "data")
    assert verify_content(table) is None
    assert not (folder / "stray.parquet").exists()


def test_removing_takes_the_manifest_first(bucket: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    table = publish(bucket / "data")

    def fail(_: list[str]) -> None:
        raise OSError("the network went")

    monkeypatch.setattr(table.folder.fs, "rm", fail)

    with pytest.raises(OSError, match="the network went"):
        remove_table(table.folder)
    assert read_table(bucket / "data", JOB.stage, JOB.fingerprint) is None
    assert (table.folder / KEPT).exists()


def test_builds_wait_for_each_other(bucket: UPath, capsys: pytest.CaptureFixture[str]) -> None:
    order = []

    def second() -> None:
        with locked(bucket / "data", "filtered"):
            order.append("second")

    with locked(bucket / "data", "filtered"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(9)  # longer than a lease without a heartbeat would last
        order.append("first")
    thread.join(timeout=30)

    assert order == ["first", "second"]
    assert "waiting for another build that works on s3://" in capsys.readouterr().err
    assert names(bucket / "data") == []


def test_one_of_many_builds_gets_a_lease_whose_heartbeat_stopped(bucket: UPath) -> None:
    (bucket / "data" / "filtered" / ".lease" / "000007").write_text("0123 5")  # of a build that was killed
    holding, most = [], []

    def build() -> None:
        with locked(bucket / "data", "filtered"):
            holding.append(1)
            most.append(len(holding))
            time.sleep(0.2)
            holding.pop()

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    assert most == [1, 1, 1, 1]
    assert names(bucket / "data") == []


def test_a_worker_that_outlives_its_build_publishes_nothing(bucket: UPath) -> None:
    root = bucket / "data"
    with locked(root, "filtered") as ended:
        pass
    (root / "filtered" / ".lease" / "000001").write_text("killed 3")  # its driver left it without a heartbeat to come
    for lease in (ended, "killed"):
        with pytest.raises(RuntimeError, match="filtered s-00000: the build that wanted this table has ended"):
            publish_table(JOB, root=root, lease=lease)

    assert read_table(root, JOB.stage, JOB.fingerprint) is None


def test_a_build_that_was_overtaken_ends(bucket: UPath) -> None:
    root = bucket / "data"
    with locked(root, "filtered") as lease:
        (root / "filtered" / ".lease" / "000002").write_text("another 0")
        with pytest.raises(RuntimeError, match="has ended"):
            publish_table(JOB, root=root, lease=lease)


def test_a_store_without_conditional_writes_says_so(
    bucket: UPath, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = bucket.fs.pipe_file

    def pipe_file(path: str, value: bytes, mode: str = "overwrite") -> object:
        if mode == "create":
            raise NotImplementedError
        return original(path, value)

    monkeypatch.setattr(bucket.fs, "pipe_file", pipe_file)

    assert verify(publish(bucket / "data")) is None
    assert "s3:// has no conditional writes: run one build at a time" in capsys.readouterr().err


def test_a_root_that_cannot_be_written_is_a_user_error(s3_environment: dict[str, str], bucket: UPath) -> None:
    with (
        pytest.raises(ValueError, match="cannot write in the data root: s3://no-such-bucket/filtered: "),
        locked(data_root("s3://no-such-bucket"), "filtered"),
    ):
        pass


def test_a_url_without_a_client_is_a_user_error() -> None:
    with pytest.raises(ValueError, match="nope://x: .*nope.*; s3:// needs the package s3fs, gs:// gcsfs, az:// adlfs"):
        data_root("nope://x")


def test_a_local_root_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert data_root("a/b") == data_root(Path("a/b")) == data_root(UPath("a/b")) == tmp_path / "a" / "b"


UPLOAD = """
import sys
from pathlib import Path
from upath import UPath
from pipelines import storage
from pipelines.build.job import Job
from pipelines.build.publish import publish as publish_table
from pipelines.storage import Written

def write(folder):
    for i in range(60):
        (folder / f"{i:03d}.bin").write_bytes(b"x" * 100_000)
    return Written(rows_in=60, rows_kept=60)

root = storage.data_root(sys.argv[1])
job = Job(stage="images", version=1, shard="s", config={}, num_rows=1, work=write)
with storage.locked(root, "images") as lease:
    publish_table(job, root=root, lease=lease)
"""


def test_killed_in_mid_upload_nothing_is_half_and_the_next_build_completes(
    bucket: UPath, subprocess_environment: dict[str, str], tmp_path: Path
) -> None:
    root = bucket / "data"
    script = tmp_path / "upload.py"
    script.write_text(UPLOAD)
    process = subprocess.Popen([sys.executable, script, str(root)], env=subprocess_environment)
    deadline = time.monotonic() + 90
    while not any(name.endswith(".bin") for name in names(root)):
        assert process.poll() is None and time.monotonic() < deadline, "no upload was seen"
    process.send_signal(signal.SIGKILL)
    process.wait()

    found = names(root)
    assert not any(name.endswith("MANIFEST.json") for name in found)
    assert 0 < sum(name.endswith(".bin") for name in found) < 60

    job = Job(stage="images", version=1, shard="s", config={}, num_rows=1, work=partial(write_many, 60))
    table = publish(root, job)
    assert len(table.manifest.files) == 60
    assert verify_content(table) is None


def write_many(count: int, folder: Path) -> Written:
    for i in range(count):
        (folder / f"{i:03d}.bin").write_bytes(b"x" * 100_000)
    return Written(rows_in=count, rows_kept=count)


def test_a_table_file_elsewhere_keeps_its_identity(bucket: UPath) -> None:
    here = TableFile(name="images/s/kept.parquet", path=Path("/here"), sha256="0" * 64, num_rows=1)
    there = dataclasses.replace(here, path=bucket / "there")

    assert dataclasses.replace(JOB, inputs=(here,)).fingerprint == dataclasses.replace(JOB, inputs=(there,)).fingerprint
