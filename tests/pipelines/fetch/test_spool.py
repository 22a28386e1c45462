"""What a spool gives back after a process ended anywhere."""

import errno
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipelines.fetch import spool as spool_module
from pipelines.fetch.http_client import Response
from pipelines.fetch.spool import DATABASE_NAME, Spool, locked_spool

ROOT = Path(__file__).resolve().parents[3]
ROWS = {"b": b"bb", "a": b"aaa" * 10_000, "c": None, "d": b"dddd"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A spool of four rows, three with images, as they came."""
    with Spool(tmp_path) as spool:
        add_rows(spool)
    return tmp_path


def add_rows(spool: Spool) -> None:
    for key, jpeg in ROWS.items():
        spool.add(key, {"width": 1} if jpeg else {"drop_reason": "dns"}, jpeg=jpeg)


def content(folder: Path) -> dict[str, bytes]:
    with Spool(folder) as spool:
        return images(spool)


def images(spool: Spool) -> dict[str, bytes]:
    return {key: jpeg for key in sorted(spool.rows) if (jpeg := spool.image(key)) is not None}


def test_another_process_goes_on(folder: Path) -> None:
    with Spool(folder) as spool:
        assert spool.rows == {key: {"width": 1} if jpeg else {"drop_reason": "dns"} for key, jpeg in ROWS.items()}
        spool.forget({"dns"})
        assert list(spool.rows) == ["b", "a", "d"]
        assert [spool.image(key) for key in ("c", "d", "none")] == [None, b"dddd", None]
        spool.add("c", {"width": 2}, jpeg=b"cc")
        assert spool.rows["c"] == {"width": 2}
    with Spool(folder) as spool:
        assert spool.rows["c"] == {"width": 2}
    assert list(content(folder).items()) == [("a", ROWS["a"]), ("b", b"bb"), ("c", b"cc"), ("d", b"dddd")]


def killed(folder: Path, tmp_path: Path) -> tuple[bytes, bytes]:
    """The database and its log as a process leaves them that is killed after four rows and an answer."""
    with Spool(folder) as spool:
        add_rows(spool)
        spool.keep("e", Response(body=b"e" * 50_000))
        copy = shutil.copytree(folder, tmp_path / "copy")
    return (copy / DATABASE_NAME).read_bytes(), (copy / f"{DATABASE_NAME}-wal").read_bytes()


def test_whatever_byte_was_the_last_to_be_written(tmp_path: Path) -> None:
    """Of the log: what was committed by then is there, in its order."""
    (tmp_path / "spool").mkdir()
    database, log = killed(tmp_path / "spool", tmp_path)
    frame = 16384 + 24
    assert len(log) % frame == 32
    sizes = {32 + i * frame + d for i in range(len(log) // frame + 1) for d in (-1, 0, 1, 4000)} | {0, 1, 31}
    num_seen = set()
    for size in sorted(size for size in sizes if size <= len(log)):
        folder = tmp_path / str(size)
        folder.mkdir()
        (folder / DATABASE_NAME).write_bytes(database)
        (folder / f"{DATABASE_NAME}-wal").write_bytes(log[:size])
        with Spool(folder) as spool:
            num_whole = len(spool.rows)
            assert list(spool.rows) == list(ROWS)[:num_whole]
            assert spool.answer("e") in (None, Response(body=b"e" * 50_000))
            num_seen.add((num_whole, spool.answer("e") is not None))
            spool.add("z", {}, jpeg=b"zz")
        kept = {key: jpeg for key, jpeg in list(ROWS.items())[:num_whole] if jpeg}
        assert content(folder) == dict(sorted(kept.items())) | {"z": b"zz"}
    assert num_seen == {(0, False), (1, False), (2, False), (3, False), (4, False), (4, True)}


def test_whatever_a_loss_of_power_tears_off_or_blanks(tmp_path: Path) -> None:
    """Of the database: what is given back is what was written, and the rest is fetched anew."""
    whole = tmp_path / "whole"
    whole.mkdir()
    with Spool(whole) as spool:
        add_rows(spool)
        spool.keep("e", Response(body=b"e" * 50_000))
    written = (whole / DATABASE_NAME).read_bytes()
    rng = random.Random(0)
    starts = [*range(0, len(written), 4096), *(rng.randrange(len(written)) for _ in range(60))]
    num_rows = []
    for start in starts:
        blanks = (written[:start] + bytes(size) + written[start + size :] for size in (512, 4096))
        for content in (written[:start], *blanks):
            folder = tmp_path / str(len(num_rows))
            folder.mkdir()
            (folder / DATABASE_NAME).write_bytes(content)
            with Spool(folder) as spool:
                num_rows.append(len(spool.rows))
                assert spool.answer("e") in (None, Response(body=b"e" * 50_000))
                assert images(spool) == {key: ROWS[key] for key in spool.rows if ROWS[key] is not None}
                spool.add("z", {"width": 3}, jpeg=b"zz")
                assert spool.rows["z"] == {"width": 3}
    assert set(num_rows) >= {0, 4}


def test_an_image_that_a_loss_of_power_blanked_is_fetched_anew(folder: Path) -> None:
    path = folder / DATABASE_NAME
    path.write_bytes(path.read_bytes().replace(b"dddd", bytes(4)))
    with Spool(folder) as spool:
        assert list(spool.rows) == ["b", "a", "c"]
        spool.add("d", {"width": 1}, jpeg=b"dd")
    assert content(folder)["d"] == b"dd"


def test_a_damaged_spool_starts_anew_and_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / DATABASE_NAME
    path.write_bytes(b"no database" * 10_000)
    assert content(folder) == {}
    assert f"{path} is damaged (file is not a database): its downloads are fetched anew" in capsys.readouterr().err


def test_a_full_disk_loses_no_row_that_was_written(folder: Path, file_size_limit: Callable[[int], Any]) -> None:
    large = b"x" * 300_000
    with Spool(folder) as spool:
        with file_size_limit(200_000):
            spool.keep("e", Response(body=large))  # the next row tells
            with pytest.raises(OSError, match="No space|disk") as caught:
                spool.add("e", {"width": 1}, jpeg=large)
            assert caught.value.errno == errno.ENOSPC
        assert "e" not in spool.rows
        assert spool.answer("e") is None
        spool.add("e", {"width": 1}, jpeg=large)
    assert content(folder) == {"a": ROWS["a"], "b": b"bb", "d": b"dddd", "e": large}


def test_what_the_version_before_left_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "answers" / "part").mkdir(parents=True)
    (tmp_path / "rows.jsonl").write_text('{"key": "a", "row": {"width": 1}, "extent": [0, 3], "crc32": 1}\n')
    (tmp_path / "images").write_bytes(b"aaa")
    assert content(tmp_path) == {}


def test_an_answer_is_known_until_its_row_is_written(tmp_path: Path) -> None:
    one, two = Response(body=b"one\ntwo", robots_tags=("noarchive",)), Response()
    with Spool(tmp_path) as spool:
        assert spool.answer("1") is None
        spool.keep("1", one)
        spool.keep("2", two)
    with Spool(tmp_path) as later:
        assert (later.answer("1"), later.answer("2")) == (one, two)
        later.add("1", {"drop_reason": "not_an_image"}, jpeg=None)
        assert later.answer("1") is None
    with Spool(tmp_path) as last:
        assert (last.answer("1"), last.answer("2")) == (None, two)
    path = tmp_path / DATABASE_NAME
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE answers SET body = ?", (bytes(3),))  # torn by a loss of power
    with Spool(tmp_path) as spool:
        assert spool.answer("2") is None


def test_many_threads_keep_answers_while_one_writes_rows(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:

        def keep(first: int) -> None:
            for i in range(first, 400, 8):
                spool.keep(str(i), Response(body=str(i).encode() * 1000))

        threads = [threading.Thread(target=keep, args=(first,)) for first in range(8)]
        for thread in threads:
            thread.start()
        for i in range(400, 500):
            spool.add(str(i), {"width": i}, jpeg=b"x" * i)
        for thread in threads:
            thread.join()
    with Spool(tmp_path) as spool:
        assert all(spool.answer(str(i)) == Response(body=str(i).encode() * 1000) for i in range(400))
        assert spool.rows == {str(i): {"width": i} for i in range(400, 500)}
    spool.keep("late", Response(body=b"of a thread that is left behind"))


LOCK = """
import sys, time
from pathlib import Path
from pipelines.fetch.spool import locked_spool
with locked_spool(Path(sys.argv[1]), or_else=Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_another_process_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place, other = tmp_path / "spool", tmp_path / "other"
    with subprocess.Popen([sys.executable, "-c", LOCK, str(place)], cwd=ROOT, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"locked\n"
        monkeypatch.setattr(spool_module, "WAIT_S", 0.2)
        with locked_spool(place, or_else=other) as got:
            assert got == other
        assert f"another process has held {place} for 0 s: its downloads are not used" in capsys.readouterr().err
        holder.kill()
    monkeypatch.setattr(spool_module, "WAIT_S", 30.0)
    started = time.monotonic()
    with locked_spool(place, or_else=other) as got:
        assert got == place
        assert time.monotonic() - started < 30
    with pytest.raises(FileNotFoundError), locked_spool(place, or_else=other):
        raise FileNotFoundError
