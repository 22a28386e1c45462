import re
from pathlib import Path

import pytest
import torch

from detclipv2.training.checkpoint import CHECKPOINT_NAME, TrainState, load_state, save_state

STATE = TrainState(
    step=7,
    model={"weight": torch.arange(3.0)},
    optimizer={"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999)}]},
    schedule={"last_epoch": 7},
    rng=torch.get_rng_state(),
)


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    save_state(STATE, tmp_path / "new" / "folder")
    found = load_state(tmp_path / "new" / "folder")

    assert found.step == 7
    assert torch.equal(found.model["weight"], STATE.model["weight"])
    assert torch.equal(found.rng, STATE.rng)
    assert (found.optimizer["param_groups"], found.schedule) == (STATE.optimizer["param_groups"], STATE.schedule)
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == [CHECKPOINT_NAME]


def test_a_failed_write_leaves_the_last_state(tmp_path: Path) -> None:
    save_state(STATE, tmp_path)
    unpicklable = TrainState(step=8, model={"weight": lambda: None}, optimizer={}, schedule={}, rng=STATE.rng)

    with pytest.raises((AttributeError, TypeError, RuntimeError)):
        save_state(unpicklable, tmp_path)

    assert load_state(tmp_path).step == 7


@pytest.mark.parametrize("damage", ["missing", "empty", "cut off", "garbage", "another file"])
def test_an_unreadable_checkpoint(tmp_path: Path, damage: str) -> None:
    path = tmp_path / CHECKPOINT_NAME
    if damage == "cut off":
        save_state(STATE, tmp_path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "another file":
        torch.save({"weight": torch.zeros(2)}, path)
    elif damage != "missing":
        path.write_bytes(b"" if damage == "empty" else b"no checkpoint at all")

    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} is not a checkpoint: .*remove its folder") as error:
        load_state(tmp_path)
    assert "\n" not in str(error.value)
