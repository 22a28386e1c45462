"""Two processes that share a batch must give what one gives for the whole batch.

This holds where the batch has as many positives as there are processes: each divides by their mean, but by 1 at least.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detclipv2.config import ModelConfig
from detclipv2.distributed import gather_objects, gather_with_grad, mean_over_ranks, rank, world_size
from detclipv2.structures import Batch

SCRIPT = Path(__file__).with_name("two_processes.py")
FIRST, SECOND = [4.0, 4, 36, 40], [30.0, 20, 60, 60]

Result = tuple[dict[str, float], dict[str, Tensor | None]]


def _two_processes() -> Any:
    spec = importlib.util.spec_from_file_location("two_processes", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def batches(make_batch: Callable[..., Batch]) -> dict[str, Batch]:
    """Of four images each; the halves have unequal numbers of boxes and texts."""
    concepts = [["dog", "cat", "owl"], ["cat", "kite", "red car", "apple"], ["dog"], ["zebra"]]
    boxes = [[FIRST, SECOND], [SECOND], [FIRST], []]
    captions = [["dog", "a dog"], ["owl", "kite", "red car", "an owl in a red car"], ["cat"], ["dog"]]
    return {
        "detection": make_batch("detection", concepts, boxes),
        "grounding": make_batch("grounding", concepts, boxes),
        "boxes in one process": make_batch("detection", concepts, [[FIRST], [SECOND], [], []]),
        "image_text": make_batch("image_text", captions),
    }


def test_two_processes_equal_one(tiny_config: ModelConfig, batches: dict[str, Batch], tmp_path: Path) -> None:
    config = replace(tiny_config, text_training="trained")
    torch.save((config, batches), tmp_path / "batches.pt")
    root = Path(__file__).parents[2]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    processes = [
        subprocess.Popen([sys.executable, SCRIPT, tmp_path, str(number)], env=environment, stderr=subprocess.PIPE, text=True)
        for number in range(2)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    results: list[dict[str, Result]] = [torch.load(tmp_path / f"{number}.pt") for number in range(2)]

    objective = _two_processes().build_objective(config)
    for name, batch in batches.items():
        objective.zero_grad(set_to_none=True)
        losses = objective(batch)
        torch.stack(list(losses.values())).sum().backward()
        ranks = [result[name] for result in results]
        for loss, value in losses.items():
            mean = sum(found[loss] for found, _ in ranks) / 2
            assert mean == pytest.approx(float(value.detach()), rel=1e-5, abs=1e-6), f"{name}: {loss}"
        for key, parameter in objective.named_parameters():
            for _, gradients in ranks:
                if parameter.grad is None:
                    assert gradients[key] is None, f"{name}: {key}"
                    continue
                scale = float(parameter.grad.abs().max())
                torch.testing.assert_close(
                    gradients[key],
                    parameter.grad,
                    rtol=1e-4,
                    atol=1e-5 * scale + 1e-9,
                    msg=lambda text, where=f"{name}: {key}": f"{where}: {text}",
                )
    # Each process sees the loss of its own half.
    first, second = (result["image_text"][0]["contrastive"] for result in results)
    assert first != second


def test_collectives_are_the_identity_in_one_process() -> None:
    tensor = torch.tensor([1.0, 3.0], requires_grad=True)

    assert (rank(), world_size()) == (0, 1)
    assert gather_with_grad(tensor) is tensor
    assert gather_objects(["a", 1]) == [["a", 1]]
    mean = mean_over_ranks(tensor.sum())
    assert float(mean) == 4.0
    assert not mean.requires_grad
