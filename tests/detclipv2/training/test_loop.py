from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detclipv2.config import LossConfig, OptimConfig, SupervisionConfig, TrainConfig
from detclipv2.data.loader import Stream
from detclipv2.data.shards import Shard
from detclipv2.losses.hybrid import HybridObjective
from detclipv2.models.detector import DetCLIPv2
from detclipv2.training.checkpoint import TrainState, load_state, save_state
from detclipv2.training.loop import Training, schedule_of, train

VOCABULARY = ["apple", "cat", "dog", "kite", "owl", "red car"]


class Recorder:
    """Keeps metrics, and states as files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics: dict[int, Mapping[str, float]] = {}
        self.saved: list[int] = []

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        assert step not in self.metrics
        self.metrics[step] = metrics

    def save(self, step: int, state: TrainState) -> None:
        assert state.step == step
        save_state(state, self.folder / str(step))
        self.saved.append(step)

    def losses(self, name: str) -> list[float]:
        return [metrics[name] for metrics in self.metrics.values() if name in metrics]


@pytest.fixture
def training(
    write_shard: Callable[..., Shard],
    annotation: Callable[..., dict[str, Any]],
    tiny_detector: Callable[..., DetCLIPv2],
) -> Callable[..., Training]:
    """A fresh training on two scenes with boxes and two pairs."""
    far = [32.0, 24.0, 60.0, 60.0]
    boxed = write_shard("boxed", {"a": annotation(), "b": annotation(boxes_xyxy=[far], concepts=["red car"])})
    pairs = write_shard(
        "pairs",
        {
            key: annotation(supervision="image_text", boxes_xyxy=[], labels=[], concepts=concepts, caption=caption)
            for key, concepts, caption in [("c", ["dog"], "a dog"), ("d", ["owl", "kite"], "an owl with a kite")]
        },
    )

    def make(model: Mapping[str, Any] | None = None, **changes: Any) -> Training:
        config = TrainConfig(
            num_steps=10,
            detection=SupervisionConfig(batch_size=2, image_size=64, num_concepts=4),
            grounding=None,
            image_text=SupervisionConfig(batch_size=2, image_size=64),
            loss=LossConfig(contrastive_weight=1.0),
            optim=OptimConfig(learning_rate=2e-3, warmup_steps=3),
            checkpoint_every=4,
        )
        config = replace(config, **changes)
        objective = HybridObjective(tiny_detector(**(model or {})), config.loss)
        shards = {"detection": boxed, "image_text": pairs}
        streams = {
            name: Stream(
                supervision=name,
                shards=[shards[name]],
                config=settings,
                vocabulary=VOCABULARY,
                seed=config.seed,
                rank=0,
                world_size=1,
            )
            for name, settings in config.supervisions().items()
        }
        return Training(
            objective=objective, wrapped=objective, streams=streams, config=config, device=torch.device("cpu")
        )

    return make


def _weights(training: Training) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in training.objective.state_dict().items()}


def test_the_losses_fall(training: Callable[..., Training], tmp_path: Path) -> None:
    hooks = Recorder(tmp_path)

    train(training(num_steps=40, image_text=None), hooks)

    for name, factor in (("align", 0.3), ("box", 0.9), ("centerness", 1.0)):
        losses = hooks.losses(f"loss/detection/{name}")
        assert len(losses) == 40
        assert sum(losses[-5:]) < factor * sum(losses[:5]), (name, losses)


def test_books_and_checkpoints(training: Callable[..., Training], tmp_path: Path) -> None:
    hooks = Recorder(tmp_path)
    run = training()
    types = schedule_of(run)

    train(run, hooks)

    assert types.count("detection") == types.count("image_text") == 5
    assert list(hooks.metrics) == list(range(1, 11))
    assert hooks.saved == [4, 8, 10]
    for kind, metrics in zip(types, hooks.metrics.values(), strict=True):
        losses = {name for name in metrics if name.startswith("loss/")}
        parts = ("align", "box", "centerness") if kind == "detection" else ("contrastive",)
        assert losses == {f"loss/{kind}/{part}" for part in parts}
        assert metrics["grad_norm"] > 0
        assert 0 <= metrics["data_wait_share"] < 1
        assert metrics[f"images_per_s/{kind}"] == pytest.approx(2 / metrics["step_s"])


def test_a_resumed_run_ends_bit_for_bit_like_an_undisturbed_one(
    training: Callable[..., Training], tmp_path: Path
) -> None:
    model = {"drop_path": 0.2, "backbone": "tf_efficientnet_lite0"}  # drop path draws from the random generator
    undisturbed, resumed = training(model), training(model)

    whole, rest = Recorder(tmp_path / "whole"), Recorder(tmp_path / "rest")
    train(undisturbed, whole)
    train(resumed, rest, resume=load_state(tmp_path / "whole" / "4"))

    assert list(rest.metrics) == list(range(5, 11))
    for step, metrics in rest.metrics.items():
        wanted = whole.metrics[step]
        assert {n: v for n, v in metrics.items() if n.startswith(("loss", "learning", "grad"))} == {
            n: v for n, v in wanted.items() if n.startswith(("loss", "learning", "grad"))
        }
    found = _weights(resumed)
    assert [name for name, value in _weights(undisturbed).items() if not torch.equal(value, found[name])] == []


def test_the_same_seed_gives_the_same_weights(training: Callable[..., Training], tmp_path: Path) -> None:
    first, second, other = training(num_steps=4), training(num_steps=4), training(num_steps=4, seed=1)
    before = _weights(first)
    for name, run in (("first", first), ("second", second), ("other", other)):
        train(run, Recorder(tmp_path / name))
    found = _weights(first)

    assert all(torch.equal(value, found[name]) for name, value in _weights(second).items())
    assert not all(torch.equal(value, found[name]) for name, value in _weights(other).items())
    frozen = {n for n, p in first.objective.named_parameters() if not p.requires_grad}
    assert frozen
    assert all(torch.equal(before[name], found[name]) for name in frozen)


@pytest.mark.parametrize("name", ["head.logit_bias", "head.regression_tower.0.0.weight"])
def test_a_loss_that_is_not_finite_names_the_batch(
    training: Callable[..., Training], tmp_path: Path, name: str
) -> None:
    run = training(image_text=None)
    with torch.no_grad():
        run.objective.detector.get_parameter(name).fill_(torch.nan)
    keys = next(run.streams["detection"].batches()).keys
    before = _weights(run)

    with pytest.raises(FloatingPointError, match="step 1: losses .*nan.* on detection batch") as error:
        train(run, Recorder(tmp_path))

    assert str(keys) in str(error.value)
    after = _weights(run)
    assert all(torch.equal(value, after[key]) for key, value in before.items() if not key.endswith(name))


def test_bfloat16_trains_too(training: Callable[..., Training], tmp_path: Path) -> None:
    hooks = Recorder(tmp_path)
    # P7 of a 64 px picture is a convolution of a single cell, whose bf16 gradient some CPUs' libraries leave uninitialised.
    larger = SupervisionConfig(batch_size=2, image_size=128, num_concepts=4)
    run = training(num_steps=4, precision="bf16", detection=larger, image_text=replace(larger, num_concepts=0))

    train(run, hooks)

    assert len(hooks.metrics) == 4
    assert all(parameter.dtype == torch.float32 for parameter in run.objective.parameters())


def test_a_checkpoint_holds_what_is_trained(training: Callable[..., Training], tmp_path: Path) -> None:
    run = training({"frozen_modules": ("conv_stem",)}, num_steps=2)

    train(run, Recorder(tmp_path))

    saved = set(load_state(tmp_path / "2").model)
    trained = {name for name, parameter in run.objective.named_parameters() if parameter.requires_grad}
    assert trained <= saved
    assert not any(
        name.startswith(("detector.text_encoder.transformer.", "detector.backbone.model.conv_stem.")) for name in saved
    )
