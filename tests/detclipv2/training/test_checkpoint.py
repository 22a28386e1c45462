import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detclipv2.data.order import Segment
from detclipv2.training.checkpoint import CHECKPOINT_NAME, TrainState, load_state, save_state

STATE = TrainState(
    step=7,
    model={"weight": torch.arange(3.0)},
    optimizer={"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999)}]},
    ema={"weight": torch.arange(3.0) / 2},
    segments=[
        Segment(world_size=2, loader_workers=0, num_batches={"detection": 3}),
        Segment(world_size=1, loader_workers=1, num_batches={"detection": 2, "image_text": 2}),
    ],
)


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    save_state(STATE, tmp_path / "new" / "folder")
    found = load_state(tmp_path / "new" / "folder")

    assert found.step == 7
    assert torch.equal(found.model["weight"], STATE.model["weight"])
    assert found.ema is not None
    assert found.ema["weight"].tolist() == [0.0, 0.5, 1.0]
    assert found.optimizer["param_groups"] == STATE.optimizer["param_groups"]
    assert found.segments == STATE.segments
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == [CHECKPOINT_NAME]


def test_a_failed_write_leaves_the_last_state(tmp_path: Path) -> None:
    save_state(STATE, tmp_path)
    unpicklable = replace(STATE, step=8, model={"weight": lambda: None})

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


def test_any_flipped_bit_is_refused_or_of_no_consequence(tmp_path: Path) -> None:
    save_state(STATE, tmp_path)
    path = tmp_path / CHECKPOINT_NAME
    whole = path.read_bytes()
    rng, refusals = random.Random(0), []
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            found = load_state(tmp_path)
        except ValueError as error:
            refusals.append(str(error))
        else:  # padding, or a field of the archive that nothing looks at
            assert torch.equal(found.model["weight"], STATE.model["weight"])
            assert found.segments == STATE.segments
    assert len(refusals) > 50
    assert all(text.startswith(f"{path} is not a checkpoint: ") for text in refusals)


def test_content_that_was_changed_is_refused(tmp_path: Path) -> None:
    save_state(STATE, tmp_path)
    path = tmp_path / CHECKPOINT_NAME
    content = torch.load(path, weights_only=True)
    content["optimizer"]["state"][0]["step"] += 1
    torch.save(content, path)

    with pytest.raises(ValueError, match="is not a checkpoint: its content is not what was written"):
        load_state(tmp_path)


def test_the_average_is_what_is_evaluated_where_there_is_one() -> None:
    assert STATE.weights["weight"].tolist() == [0.0, 0.5, 1.0]
    assert replace(STATE, ema=None).weights["weight"].tolist() == [0.0, 1.0, 2.0]
