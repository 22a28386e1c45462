"""What a spool gives back after a process ended anywhere."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.fetch import spool as spool_module
from pipelines.fetch.spool import Answers, Spool, locked_spool

ROOT = Path(__file__).resolve().parents[3]
ROWS = {"b": b"bb", "a": b"aaa", "c": None, "d": b"dddd"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A spool of four rows, three with images, as they came."""
    with Spool(tmp_path) as spool:
        for key, jpeg in ROWS.items():
            spool.add(key, {"width": 1} if jpeg else {"drop_reason": "dns"}, jpeg=jpeg)
    return tmp_path


def content(folder: Path) -> dict[str, bytes]:
    with Spool(folder) as spool:
        return {sample.key: sample.members["jpg"] for sample in spool.samples()}


def test_another_process_goes_on(folder: Path) -> None:
    with Spool(folder) as spool:
        assert spool.rows == {key: {"width": 1} if jpeg else {"drop_reason": "dns"} for key, jpeg in ROWS.items()}
        spool.forget({"dns"})
        assert list(spool.rows) == ["b", "a", "d"]
        spool.add("c", {"width": 2}, jpeg=b"cc")
        assert spool.rows["c"] == {"width": 2}
    with Spool(folder) as spool:
        assert spool.rows["c"] == {"width": 2}
    assert content(folder) == {"a": b"aaa", "b": b"bb", "c": b"cc", "d": b"dddd"}
    assert (folder / "images").read_bytes() == b"bbaaaddddcc"


def test_whatever_byte_was_the_last_to_be_written(folder: Path) -> None:
    rows, images = (folder / "rows.jsonl").read_bytes(), (folder / "images").read_bytes()
    ends = [i + 1 for i, byte in enumerate(rows) if byte == ord("\n")]
    for size in range(len(rows) + 1):
        (folder / "rows.jsonl").write_bytes(rows[:size])
        (folder / "images").write_bytes(images)
        num_whole = sum(end <= size for end in ends)
        with Spool(folder) as spool:
            assert list(spool.rows) == list(ROWS)[:num_whole]
            spool.add("z", {}, jpeg=b"zz")
        kept = {key: jpeg for key, jpeg in list(ROWS.items())[:num_whole] if jpeg}
        assert content(folder) == dict(sorted(kept.items())) | {"z": b"zz"}
        assert (folder / "images").stat().st_size == sum(map(len, kept.values())) + 2


def test_an_image_that_a_loss_of_power_blanked_is_fetched_anew_with_all_after_it(folder: Path) -> None:
    images = (folder / "images").read_bytes()
    (folder / "images").write_bytes(images.replace(b"aaa", b"\0\0\0"))

    assert content(folder) == {"b": b"bb"}
    assert len((folder / "rows.jsonl").read_bytes().splitlines()) == 1


def test_an_answer_is_known_until_its_row_is_written(tmp_path: Path) -> None:
    answers = Answers(tmp_path)
    assert answers.start("http://a.test/1") is None
    answers.keep(["noarchive"], b"one\ntwo")
    assert answers.start("http://a.test/2") is None
    answers.keep([], b"")

    (tmp_path / "part" / "torn").write_bytes(b"[3")
    later = Answers(tmp_path)
    assert later.start("http://a.test/1") == (["noarchive"], b"one\ntwo")
    assert later.start("http://a.test/2") == ([], b"")
    later.drop("http://a.test/1")
    assert later.start("http://a.test/1") is None
    assert Answers(tmp_path).start("http://a.test/1") is None
    for file in tmp_path.glob("?" * 32):
        file.write_bytes(json.dumps([5, []]).encode() + b"\n\0\0")  # torn by a loss of power
    assert Answers(tmp_path).start("http://a.test/2") is None


HOLD = """
import sys, time
from pathlib import Path
from pipelines.fetch.spool import locked_spool
with locked_spool(Path(sys.argv[1]), or_else=Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_another_process_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place, other = tmp_path / "spool", tmp_path / "other"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(place)], cwd=ROOT, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
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
