"""A detector whose weights are a ramp, against what it gave when the golden file was written.

The file pins this implementation's numbers, not an outside reference (the other tests compare with those). It is written by
``UPDATE_GOLDEN=1 python -m pytest tests/detclipv2/test_golden.py`` in fp32 on a CPU; the tolerance leaves room for other CPUs.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detclipv2.config import LossConfig, OptimConfig
from detclipv2.losses.hybrid import HybridObjective
from detclipv2.models.detector import DetCLIPv2
from detclipv2.models.postprocess import postprocess
from detclipv2.structures import Batch
from detclipv2.training.optim import build_optimizer

GOLDEN = Path(__file__).parents[1] / "golden" / "model"
RELATIVE_TOLERANCE = 1e-3


def _ramp(shape: torch.Size, start: int) -> Tensor:
    """Numbers from -1 to 1 that run up in steps, again and again, beginning at another one for every tensor."""
    count = torch.Size(shape).numel()
    return (((torch.arange(count) * 7 + start) % 23 - 11) / 11).reshape(shape)


@torch.no_grad()
def _fill(module: nn.Module) -> None:
    for start, (name, parameter) in enumerate(sorted(module.named_parameters())):
        ramp = _ramp(parameter.shape, start)
        if parameter.ndim > 1:  # of a size that neither fades nor grows from layer to layer
            parameter.copy_(2.4 * ramp / (parameter[0].numel() ** 0.5))
        elif name.endswith(("norm.weight", "Norm.weight", "1.weight")):
            parameter.copy_(1 + ramp / 4)
        elif parameter.ndim == 1 and not name.endswith("scales"):
            parameter.copy_(ramp / 10)


def _batch(supervision: Any) -> Batch:
    pixels = (torch.arange(2 * 3 * 64 * 64) % 251 / 250).reshape(2, 3, 64, 64)
    pixels[0, :, 8:40, 8:40], pixels[1, 0, 20:60, 10:50] = 1.0, 0.0
    boxed = supervision != "image_text"
    boxes: list[list[list[float]]] = [[[8, 8, 40, 40], [30, 4, 60, 30]], [[10, 20, 50, 60]]] if boxed else [[], []]
    return Batch(
        supervision=supervision,
        keys=["a", "b"],
        pixels=pixels,
        image_sizes_hw=[(64, 64), (64, 56)],
        boxes_xyxy=[torch.tensor(image, dtype=torch.float32).reshape(-1, 4) for image in boxes],
        labels=[torch.arange(len(image)) for image in boxes],
        concepts=[["dog", "red apple", "owl"], ["red apple", "a very old clock"]],
    )


def _statistics(level: Tensor) -> list[float]:
    return [float(level.mean()), float(level.std()), float(level.flatten()[0])]


def _outputs(detector: DetCLIPv2) -> dict[str, Any]:
    batch = _batch("detection")
    with torch.no_grad():
        output = detector.eval()(batch.pixels, batch.image_sizes_hw)
        texts = detector.text_encoder(["dog", "red apple"])
        logits = detector.logits(output.embeddings, texts)
        found = postprocess(
            output,
            texts,
            logit_bias=detector.head.logit_bias,
            image_sizes_hw=batch.image_sizes_hw,
            max_detections=5,
        )
    levels = dict(zip(("p3", "p4", "p5"), output.embeddings.split(output.num_anchors, dim=1), strict=False))
    return {
        "text_embeddings": texts[:, :4].tolist(),
        "embeddings": {name: _statistics(level) for name, level in levels.items()},
        "box_deltas": _statistics(output.box_deltas),
        "centerness": _statistics(output.centerness),
        "logits": _statistics(logits),
        "detections": [
            {"boxes_xyxy": image.boxes_xyxy.tolist(), "scores": image.scores.tolist(), "labels": image.labels.tolist()}
            for image in found
        ],
    }


def _training_steps(detector: DetCLIPv2) -> list[dict[str, float]]:
    objective = HybridObjective(detector, LossConfig(num_proposals=20)).train()
    optimizer = build_optimizer(objective, OptimConfig(learning_rate=1e-3))
    steps = []
    for supervision in ("detection", "image_text", "grounding", "detection", "image_text"):
        losses = objective(_batch(supervision))
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        steps.append({f"{supervision}/{name}": float(loss.detach()) for name, loss in losses.items()})
    return steps


def _assert_close(found: Any, wanted: Any, where: str) -> None:
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), where
        for key, value in wanted.items():
            _assert_close(found[key], value, f"{where}/{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), where
        for index, value in enumerate(wanted):
            _assert_close(found[index], value, f"{where}/{index}")
    else:
        assert found == pytest.approx(wanted, rel=RELATIVE_TOLERANCE, abs=1e-5), where


@pytest.mark.parametrize("region_norm", ["raw", "unit"])
def test_ramp_detector(tiny_detector: Callable[..., DetCLIPv2], region_norm: str) -> None:
    detector = tiny_detector(region_norm=region_norm)
    _fill(detector)
    found = {"outputs": _outputs(detector), "training_steps": _training_steps(detector)}

    path = GOLDEN / f"ramp_{region_norm}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(json.dumps(found, indent=1) + "\n")
    _assert_close(found, json.loads(path.read_text()), path.name)
