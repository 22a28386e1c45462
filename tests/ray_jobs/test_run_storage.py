import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from upath import UPath

from detclipv2.training.checkpoint import CHECKPOINT_NAME, TrainState, save_state
from pipelines.storage import data_root, locks
from ray_jobs.run_storage import FINISHED_NAME, RAY_RECORD_NAME, RunStorage
from tests.ray_jobs.conftest import ROOT


def state(step: int) -> TrainState:
    return TrainState(step=step, model={"w": torch.full((2,), float(step))}, optimizer={}, ema=None, segments=[])


@pytest.fixture
def storage(tmp_path: Path) -> RunStorage:
    return RunStorage(root=tmp_path, name="run")


def write(storage: RunStorage, *steps: int) -> None:
    for step in steps:
        save_state(state(step), Path(str(storage.folder / storage.checkpoint_name(step))))


def cut_off(storage: RunStorage, step: int) -> None:
    path = Path(str(storage.folder / storage.checkpoint_name(step) / CHECKPOINT_NAME))
    path.write_bytes(path.read_bytes()[:-100])


def record(storage: RunStorage, *steps: int) -> Path:
    path = Path(str(storage.folder / RAY_RECORD_NAME))
    results = [{"checkpoint_dir_name": storage.checkpoint_name(step), "metrics": {}} for step in steps]
    path.write_text(json.dumps({"checkpoint_results": results}))
    return path


def test_a_run_that_has_not_begun(storage: RunStorage) -> None:
    storage.recover(num_to_keep=2)

    assert storage.steps() == []
    assert storage.newest() == (None, [])
    assert storage.finished_step() is None


def test_the_newest_whole_checkpoint(storage: RunStorage) -> None:
    write(storage, 3, 100, 20)
    cut_off(storage, 100)
    (Path(str(storage.folder)) / storage.checkpoint_name(101)).mkdir()  # an upload that had just begun

    found, problems = storage.newest()

    assert storage.steps() == [3, 20, 100, 101]
    assert found is not None
    assert found.step == 20
    assert len(problems) == 2
    assert all("is not a checkpoint" in problem for problem in problems)


def test_old_checkpoints_that_nobody_names_go(storage: RunStorage) -> None:
    write(storage, 1, 2, 3, 4, 5)
    record(storage, 2, 5)

    storage.recover(num_to_keep=2)

    assert storage.steps() == [2, 4, 5]


@pytest.mark.parametrize("damage", ["half", "empty", "names a checkpoint that is gone", "other json"])
def test_a_record_that_would_keep_the_run_from_starting_goes(storage: RunStorage, damage: str) -> None:
    write(storage, 2, 4)
    path = record(storage, 2, 4, *([6] if damage.startswith("names") else []))
    if damage == "half":
        path.write_text(path.read_text()[:-20])
    elif damage == "empty":
        path.write_text("")
    elif damage == "other json":
        path.write_text("[1]")

    storage.recover(num_to_keep=2)

    assert not path.exists()
    assert storage.steps() == [2, 4]


def test_a_good_record_stays(storage: RunStorage) -> None:
    write(storage, 2, 4)
    path = record(storage, 2, 4)

    storage.recover(num_to_keep=2)

    assert path.exists()


def test_the_end_is_noted(storage: RunStorage) -> None:
    write(storage, 7)
    storage.finish(7)

    assert storage.finished_step() == 7


def test_on_an_object_store(bucket: UPath, cache_folder: Path, tmp_path: Path) -> None:
    root = data_root(bucket / "runs")
    storage = RunStorage(root=root, name="run")
    for step in (2, 4):
        save_state(state(step), tmp_path / str(step))
        for file in (tmp_path / str(step)).iterdir():
            (storage.folder / storage.checkpoint_name(step) / file.name).write_bytes(file.read_bytes())
    broken = storage.folder / storage.checkpoint_name(4) / CHECKPOINT_NAME
    broken.write_bytes(broken.read_bytes()[:-100])

    found, problems = storage.newest()

    assert found is not None
    assert found.step == 2
    assert len(problems) == 1
    storage.recover(num_to_keep=1)
    assert storage.steps() == [4]
    storage.finish(4)
    assert storage.finished_step() == 4


TRAINS = """
import pathlib, sys, time
from pipelines.storage import data_root
from ray_jobs.run_storage import RunStorage
with RunStorage(root=data_root(sys.argv[1]), name="run").locked():
    pathlib.Path(sys.argv[2]).touch()
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Start a process that trains the run of a root until it is killed."""
    started = []

    def start(root: str) -> subprocess.Popen[bytes]:
        ready = tmp_path / "ready"
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen([sys.executable, "-c", TRAINS, root, str(ready)], env=environment)
        started.append(process)
        deadline = time.monotonic() + 120
        while not ready.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_two_trainings_of_one_name(storage: RunStorage, holder: Callable[[str], Any]) -> None:
    first = holder(str(storage.root))

    with (
        pytest.raises(ValueError, match=f"run run is being trained by process {first.pid} on .*--name"),
        storage.locked(),
    ):
        pass
    with replace(storage, name="other").locked():
        pass
    first.kill()
    first.wait()
    with storage.locked():  # what a killed one held is free
        pass


def test_one_that_waits_has_its_turn(storage: RunStorage) -> None:
    order: list[str] = []

    def wait() -> None:
        with storage.locked(wait=True):
            order.append("second")

    thread = threading.Thread(target=wait)
    with storage.locked():
        thread.start()
        time.sleep(0.5)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_two_trainings_of_one_name_on_an_object_store(
    bucket: UPath, holder: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = RunStorage(root=data_root(bucket / "runs"), name="run")
    first = holder(str(storage.root))
    monkeypatch.setattr(locks, "EXPIRY_S", 6.0)

    with pytest.raises(ValueError, match=f"run run is being trained by process {first.pid} on "), storage.locked():
        pass
    first.kill()
    first.wait()
    with storage.locked():  # once its heart has stopped for long enough
        pass
    with storage.locked():
        pass


def test_a_garbled_record_of_the_end_is_named(storage: RunStorage) -> None:
    storage.finish(7)
    assert storage.finished_step() == 7
    Path(str(storage.folder / FINISHED_NAME)).write_text("seven")

    with pytest.raises(ValueError, match=f"{FINISHED_NAME} is damaged.*remove it"):
        storage.finished_step()


def test_leftovers_of_killed_workers_go_but_not_those_of_other_runs(storage: RunStorage) -> None:
    mine, others = storage.temporary_folder(), replace(storage, name="other").temporary_folder()

    storage.remove_leftovers()

    assert not mine.exists()
    assert others.exists()
    replace(storage, name="other").remove_leftovers()
