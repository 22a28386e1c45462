"""Checkpoint of a training, as one file."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detclipv2.data.order import Segment
from detclipv2.foreign_files import check_regular

CHECKPOINT_NAME = "train_state.pt"
_DIGEST = "sha256"


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """State after ``step`` steps. Types, order of the data, learning rates and random numbers follow from it."""

    step: int
    model: dict[str, Any]  # trained parameters and buffers; a frozen text encoder is left out
    optimizer: dict[str, Any]
    ema: dict[str, Any] | None = None  # average of the weights, where there is one
    segments: list[Segment]  # of the training so far; ``step`` is in the last

    @property
    def weights(self) -> dict[str, Any]:
        """What to evaluate and to export: the average where there is one."""
        return self.model if self.ema is None else self.model | self.ema


def save_state(state: TrainState, folder: Path) -> None:
    """Write ``train_state.pt`` into ``folder``, under a temporary name first, with a digest of what it holds."""
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = _on_cpu(
        {
            "step": state.step,
            "model": state.model,
            "optimizer": state.optimizer,
            "ema": state.ema,
            "segments": [asdict(segment) for segment in state.segments],
        }
    )
    temporary = folder / f".{CHECKPOINT_NAME}.tmp"
    with temporary.open("wb") as file:
        torch.save(content | {_DIGEST: _digest(content)}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / CHECKPOINT_NAME)


def load_state(folder: Path) -> TrainState:
    """Read what ``save_state`` wrote.

    Raises:
        ValueError: the folder holds no readable checkpoint, or one that is damaged.
    """
    path = folder / CHECKPOINT_NAME
    try:
        check_regular(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict) or _DIGEST not in content:
            raise ValueError("it has no digest of its content")
        if content.pop(_DIGEST) != _digest(content):
            raise ValueError("its content is not what was written")
        segments = [Segment(**segment) for segment in content.pop("segments")]
        state = TrainState(**content, segments=segments)
        _check_state(state)
        return state
    except Exception as error:  # what torch and pickle raise for damaged files has no common type
        reason = str(error).partition("\n")[0]  # torch appends paragraphs of advice, some of it harmful
        raise ValueError(
            f"{path} is not a checkpoint: {reason or type(error).__name__}; remove its folder to start from an earlier one"
        ) from error


def _check_state(state: TrainState) -> None:
    if type(state.step) is not int or state.step < 0 or not isinstance(state.model, dict):
        raise ValueError("it has no step, or no weights")
    for name, value in state.weights.items():
        if isinstance(value, Tensor) and value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(f"{name} has values that are not finite")


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict less the parameters that are not trained: those come with the configuration."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def load_trained_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load what ``trained_state`` gave into a model of the same configuration.

    Raises:
        ValueError: a trained weight is missing, or there is one that the model does not have.
    """
    wanted = trained_state(model).keys()
    if wanted != state.keys():
        odd = sorted(wanted ^ state.keys())
        raise ValueError(
            f"the checkpoint is of another model: {len(odd)} weights differ, first {odd[0]!r}; use another name"
        )
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    for name, value in state.items():
        if value.shape != shapes[name]:
            raise ValueError(
                f"the checkpoint is of another model: {name} has the shape {list(value.shape)}, not {list(shapes[name])};"
                " use another name"
            )
    model.load_state_dict(state, strict=False)


def _on_cpu(value: Any) -> Any:
    """The same nested dicts and lists, their tensors in main memory."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(part) for key, part in value.items()}
    return [_on_cpu(part) for part in value] if isinstance(value, list) else value


def _digest(content: Any) -> str:
    """Digest of nested dicts and lists of tensors and plain values: of names, types, shapes and every byte."""
    sha256 = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            sha256.update(f"{value.dtype} {tuple(value.shape)};".encode())
            sha256.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(value, dict):
            sha256.update(f"{{{len(value)};".encode())
            for key, part in value.items():
                sha256.update(f"{key!r}:".encode())
                add(part)
        elif isinstance(value, list):
            sha256.update(f"[{len(value)};".encode())
            for part in value:
                add(part)
        else:
            sha256.update(f"{value!r};".encode())

    add(content)
    return sha256.hexdigest()
