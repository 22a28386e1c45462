"""What a run needs to go on after an interruption, as one file."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

CHECKPOINT_NAME = "train_state.pt"


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """State after ``step`` steps. The data order follows from the step alone (see ``data/loader.py``)."""

    step: int
    model: dict[str, Any]  # trained parameters and buffers; a frozen text encoder is left out
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    rng: torch.Tensor


def save_state(state: TrainState, folder: Path) -> None:
    """Write ``train_state.pt`` into ``folder``, under a temporary name first."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{CHECKPOINT_NAME}.tmp"
    torch.save(vars(state), temporary)
    temporary.replace(folder / CHECKPOINT_NAME)


def load_state(folder: Path) -> TrainState:
    """Read what ``save_state`` wrote.

    Raises:
        ValueError: the folder holds no readable checkpoint.
    """
    path = folder / CHECKPOINT_NAME
    try:
        return TrainState(**torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, TypeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]  # torch appends paragraphs of advice, some of it harmful
        raise ValueError(
            f"{path} is not a checkpoint: {reason}; remove its folder to start from an earlier one"
        ) from error
