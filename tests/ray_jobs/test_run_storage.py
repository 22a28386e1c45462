import json
from pathlib import Path

import pytest
import torch
from upath import UPath

from detclipv2.training.checkpoint import CHECKPOINT_NAME, TrainState, save_state
from pipelines.storage import data_root
from ray_jobs.run_storage import RAY_RECORD_NAME, RunStorage


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
