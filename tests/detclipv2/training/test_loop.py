import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detclipv2.config import LossConfig, OptimConfig, SupervisionConfig, TrainConfig
from detclipv2.data.loader import Stream
from detclipv2.data.order import Segment
from detclipv2.data.tar_shards import Shard
from detclipv2.losses.hybrid import HybridObjective
from detclipv2.models.detector import DetCLIPv2
from detclipv2.structures import Batch, float_pixels
from detclipv2.training.accumulation import seed_torch
from detclipv2.training.checkpoint import TrainState, load_state, save_state, trained_state
from detclipv2.training.loop import Training, train
from detclipv2.training.metrics import SkippedStep

VOCABULARY = ["apple", "cat", "dog", "kite", "owl", "red car"]


class Recorder:
    """Keeps metrics, and states as files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics: dict[int, Mapping[str, float]] = {}
        self.saved: list[int] = []
        self.skips: dict[int, SkippedStep] = {}
        self.wanted: set[int] = set()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        assert step not in self.metrics
        self.metrics[step] = metrics

    def skipped(self, step: int, skipped: SkippedStep) -> None:
        assert step not in self.metrics
        self.skips[step] = skipped

    def wants_checkpoint(self, step: int) -> bool:
        return step in self.wanted

    def save(self, step: int, state: Callable[[], TrainState]) -> None:
        assert state().step == step
        save_state(state(), self.folder / str(step))
        self.saved.append(step)

    def keys_of(self, training: Training, supervision: Any) -> list[str]:
        return next(training.streams[supervision].batches((), 0)).keys

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


def test_a_training_without_pairs_is_told(
    training: Callable[..., Training], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hooks = Recorder(tmp_path)

    train(training(num_steps=3, image_text_after=5), hooks)

    assert list(hooks.metrics) == [1, 2, 3]
    assert "image-text pairs never take part: train.image_text_after is 5, and the training has 3 steps" in caplog.text


def test_the_losses_fall(training: Callable[..., Training], tmp_path: Path) -> None:
    hooks = Recorder(tmp_path)

    train(training(num_steps=40, image_text=None), hooks)

    for name, factor in (("align", 0.3), ("box", 0.9), ("centerness", 1.0)):
        losses = hooks.losses(f"loss/detection/{name}")
        assert len(losses) == 40
        assert sum(losses[-5:]) < factor * sum(losses[:5]), (name, losses)


def test_logs_and_checkpoints(training: Callable[..., Training], tmp_path: Path) -> None:
    hooks = Recorder(tmp_path)
    run = training()
    types = run.schedule().types

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
    optim = OptimConfig(learning_rate=2e-3, warmup_steps=3, ema_decay=0.9)
    undisturbed, resumed = training(model, optim=optim), training(model, optim=optim)

    whole, rest = Recorder(tmp_path / "whole"), Recorder(tmp_path / "rest")
    train(undisturbed, whole)
    train(resumed, rest, resume=load_state(tmp_path / "whole" / "4"))

    assert list(rest.metrics) == list(range(5, 11))
    for step, metrics in rest.metrics.items():
        wanted = whole.metrics[step]
        assert {n: v for n, v in metrics.items() if n.startswith(("loss", "learning", "grad"))} == {
            n: v for n, v in wanted.items() if n.startswith(("loss", "learning", "grad"))
        }
    wanted, found = load_state(tmp_path / "whole" / "10"), load_state(tmp_path / "rest" / "10")
    assert [name for name, value in wanted.weights.items() if not torch.equal(value, found.weights[name])] == []
    assert wanted.model.keys() == found.weights.keys()
    assert wanted.segments == found.segments


class Observed:
    """A stream that notes from where it was read, and then begins at the beginning."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.shards = stream, stream.shards
        self.asked: list[tuple[Sequence[Segment], int]] = []

    def batches(self, history: Sequence[Segment], done: int) -> Iterator[Batch]:
        self.asked.append((history, done))
        return self.stream.batches((), 0)


def test_a_training_goes_on_with_other_workers(training: Callable[..., Training], tmp_path: Path) -> None:
    optim = OptimConfig(learning_rate=2e-3, warmup_steps=1, reference_batch_size=2)
    settings = SupervisionConfig(batch_size=2, image_size=64, num_concepts=4)
    lengths = {"num_steps": None, "epochs": 8.0, "optim": optim, "detection": settings, "image_text": None}
    # On two workers an epoch of the two scenes is a step as well, but the rate is higher.
    segments = [Segment(world_size=2, loader_workers=0, num_batches={"detection": 2})]
    whole = Recorder(tmp_path / "whole")
    train(training(**lengths), whole)
    begun = load_state(tmp_path / "whole" / "4")
    run, rest = training(**lengths), Recorder(tmp_path / "rest")
    observed: Any = Observed(run.streams["detection"])

    train(replace(run, streams={"detection": observed}), rest, resume=replace(begun, step=2, segments=segments))

    assert observed.asked == [(tuple(segments), 0)]
    assert list(rest.metrics) == [3, 4, 5, 6, 7, 8]
    assert rest.metrics[3]["learning_rate"] == whole.metrics[3]["learning_rate"]
    last = load_state(tmp_path / "rest" / "8")
    assert last.segments == [*segments, Segment(world_size=1, loader_workers=0, num_batches={"detection": 6})]
    # And a third time, inside the second segment.
    train(replace(run, streams={"detection": observed}), Recorder(tmp_path), resume=load_state(tmp_path / "rest" / "4"))
    assert observed.asked[1] == (tuple(segments), 2)


def test_random_numbers_follow_from_seed_step_and_rank() -> None:
    def drawn(*key: int | str) -> list[float]:
        seed_torch(*key)
        return torch.rand(3).tolist()

    keys: list[tuple[int | str, ...]] = [(0, 1, 0), (1, 1, 0), (0, 2, 0), (0, 1, 1), (0, 1, 0, "texts", 0)]
    found = [drawn(*key) for key in keys]

    assert found == [drawn(*key) for key in keys]
    assert all(found.count(one) == 1 for one in found)


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


class Spoiled:
    """A stream whose batches of some numbers have an image of huge pixels, which give a loss that is not finite."""

    def __init__(self, stream: Stream, *numbers: int) -> None:
        self.stream, self.numbers, self.shards = stream, numbers, stream.shards
        self.closed = False

    def batches(self, history: Sequence[Segment], done: int) -> Iterator[Batch]:
        try:
            for number, batch in enumerate(self.stream.batches(history, done), start=done + 1):
                yield replace(batch, pixels=float_pixels(batch.pixels) * 1e38) if number in self.numbers else batch
        finally:
            self.closed = True


def _spoil(training: Training, *numbers: int) -> Training:
    streams: Any = {name: Spoiled(stream, *numbers) for name, stream in training.streams.items()}
    return replace(training, streams=streams)


@pytest.mark.parametrize("supervision", ["detection", "image_text"])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_that_is_not_finite_changes_nothing(
    training: Callable[..., Training], tmp_path: Path, supervision: str, parts: int
) -> None:
    other = {"detection": "image_text", "image_text": "detection"}[supervision]
    settings = SupervisionConfig(batch_size=2 // parts, global_batch_size=2, image_size=64, num_concepts=4)
    changes: dict[str, Any] = {
        other: None,
        supervision: settings,
        "optim": OptimConfig(learning_rate=2e-3, ema_decay=0.5),
    }
    run = _spoil(training(num_steps=3, checkpoint_every=1, **changes), 2)
    hooks = Recorder(tmp_path)

    train(run, hooks)

    assert list(hooks.skips) == [2]
    skip = hooks.skips[2]
    assert (skip.supervision, sorted(skip.keys)) == (supervision, sorted(hooks.keys_of(run, supervision)))
    assert not all(math.isfinite(value) for value in [*skip.losses.values(), skip.norm])
    assert [hooks.metrics[step]["skipped_steps"] for step in (1, 2, 3)] == [0, 1, 1]
    before, after, last = (load_state(tmp_path / str(step)) for step in (1, 2, 3))
    assert before.ema is not None and after.ema is not None and last.ema is not None
    for wanted, found in ((before.model, after.model), (before.ema, after.ema)):
        assert all(torch.equal(value, found[name]) for name, value in wanted.items())
    for index, moments in before.optimizer["state"].items():
        assert all(torch.equal(value, after.optimizer["state"][index][name]) for name, value in moments.items())
    for wanted, found in ((before.model, last.model), (before.ema, last.ema)):
        assert not all(torch.equal(value, found[name]) for name, value in wanted.items())
    assert all(bool(value.isfinite().all()) for value in last.model.values())


def test_a_loss_that_is_not_finite_and_leaves_no_gradient(training: Callable[..., Training], tmp_path: Path) -> None:
    run = training(num_steps=1, image_text=None)

    class Endless(nn.Module):
        def forward(self, batch: Batch) -> dict[str, Tensor]:
            return run.objective(batch) | {"endless": torch.tensor(torch.inf)}

    hooks = Recorder(tmp_path)
    before = _weights(run)

    train(replace(run, wrapped=Endless()), hooks)

    assert math.isfinite(hooks.skips[1].norm)
    assert math.isinf(hooks.skips[1].losses["endless"])
    after = _weights(run)
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize("name", ["head.logit_bias", "head.regression_tower.0.0.weight"])
def test_too_many_skipped_steps_end_the_training(training: Callable[..., Training], tmp_path: Path, name: str) -> None:
    run = training(image_text=None, max_skipped_steps=3)
    run = _spoil(run)
    with torch.no_grad():
        run.objective.detector.get_parameter(name).fill_(torch.nan)
    hooks = Recorder(tmp_path)

    with pytest.raises(FloatingPointError, match=r"step 3: losses .*nan.* on detection batch \['.*3 step.* in a row"):
        train(run, hooks)

    assert list(hooks.skips) == [1, 2, 3]
    stream: Any = run.streams["detection"]
    assert stream.closed


def test_steps_that_are_not_finite_now_and_then_do_not_end_it(
    training: Callable[..., Training], tmp_path: Path
) -> None:
    hooks = Recorder(tmp_path)

    train(_spoil(training(image_text=None, max_skipped_steps=3), 1, 2, 4, 5, 7), hooks)

    assert list(hooks.skips) == [1, 2, 4, 5, 7]
    assert hooks.saved == [4, 8, 10]


def test_a_checkpoint_that_is_asked_for(training: Callable[..., Training], tmp_path: Path) -> None:
    hooks = Recorder(tmp_path)
    hooks.wanted = {3, 8}

    train(training(), hooks)

    assert hooks.saved == [3, 4, 8, 10]


def test_what_the_hardware_does(training: Callable[..., Training], tmp_path: Path) -> None:
    hooks = Recorder(tmp_path)
    run = replace(training(num_steps=4), flops_per_image={"detection": 3e9}, peak_flops_per_s=2e12)

    train(run, hooks)

    for kind, metrics in zip(run.schedule().types, hooks.metrics.values(), strict=True):
        assert metrics["memory_bytes"] > 2**25
        assert ("mfu" in metrics) == ("tflops_per_s" in metrics) == (kind == "detection")
        if kind == "detection":
            assert metrics["tflops_per_s"] == pytest.approx(3e-3 * metrics["images_per_s/detection"])
            assert metrics["mfu"] == pytest.approx(metrics["tflops_per_s"] / 2)


def test_learning_rates_of_the_groups(training: Callable[..., Training], tmp_path: Path) -> None:
    hooks = Recorder(tmp_path)
    optim = OptimConfig(learning_rate=2e-3, warmup_steps=3, backbone_learning_rate_factor=0.25, reference_batch_size=8)

    train(training(num_steps=2, optim=optim), hooks)

    # The warm-up takes one step; a quarter of the reference's batch takes half of its rate.
    assert hooks.metrics[1]["learning_rate"] == hooks.metrics[1]["learning_rate/head"] == pytest.approx(1e-3)
    assert hooks.metrics[1]["learning_rate/backbone"] == pytest.approx(2.5e-4)
    assert "learning_rate/text_encoder" not in hooks.metrics[1]


def test_the_average_follows_the_weights(training: Callable[..., Training], tmp_path: Path) -> None:
    hooks = Recorder(tmp_path)
    run = training(num_steps=2, checkpoint_every=1, optim=OptimConfig(learning_rate=2e-3, ema_decay=0.9))
    average = {name: value.clone() for name, value in trained_state(run.objective).items()}

    train(run, hooks)

    for step, decay in ((1, 2 / 11), (2, 3 / 12)):
        state = load_state(tmp_path / str(step))
        assert state.ema is not None
        average = {name: decay * value + (1 - decay) * state.model[name] for name, value in average.items()}
        for name, value in state.ema.items():
            torch.testing.assert_close(value, average[name], msg=f"{step} {name}")


def test_bfloat16_trains_too(training: Callable[..., Training], tmp_path: Path) -> None:
    hooks = Recorder(tmp_path)
    # P7 of a 64 px image is a convolution of a single cell, whose bf16 gradient some CPUs' libraries leave uninitialised.
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
