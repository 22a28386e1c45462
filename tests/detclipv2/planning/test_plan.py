from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from detclipv2.config import ModelConfig, Supervision, SupervisionConfig, TrainConfig
from detclipv2.planning.gpus import GPUS, gpu_named
from detclipv2.planning.memory import HEADROOM
from detclipv2.planning.plan import Plan, Rate, expected_speed, make_plan
from detclipv2.planning.steps import count_steps
from detclipv2.planning.table import plan_tables
from detclipv2.planning.texts import DataSize

BOXED = SupervisionConfig(batch_size=2, image_size=64, num_concepts=10)
PAIRS = SupervisionConfig(batch_size=4, image_size=64, global_batch_size=32)
TRAIN = TrainConfig(epochs=3, detection=BOXED, grounding=None, image_text=PAIRS)
SIZES: dict[Supervision, DataSize] = {
    "detection": DataSize(num_samples=41, num_concepts=20),
    "image_text": DataSize(num_samples=320, phrases_per_sample=2),
}


def rate(gpu: str, recipe: str, flops_per_s: float) -> Rate:
    return Rate(gpu=gpu, recipe=recipe, supervision="detection", flops_per_s=flops_per_s, source=f"{gpu} {recipe}")


def planned(model: ModelConfig, *, rates: Sequence[Rate] = (), **changes: Any) -> Plan:
    train = replace(TRAIN, **changes)
    return make_plan(model, train, recipe="a:b", sizes=SIZES, gpu=GPUS["l4"], num_processes=4, rates=rates)


def test_steps_of_epochs() -> None:
    steps = count_steps(TRAIN, SIZES, world_size=4)

    assert (steps["detection"].images, steps["detection"].per_epoch, steps["detection"].total) == (8, 6, 18)
    assert (steps["image_text"].images, steps["image_text"].per_epoch, steps["image_text"].total) == (32, 10, 30)


def test_steps_of_a_number_of_steps_are_those_of_the_alternation() -> None:
    train = replace(TRAIN, epochs=None, num_steps=20, image_text_after=4)

    steps = count_steps(train, SIZES, world_size=4)

    # Four steps of boxes alone, then one pass of 6 and 10.
    assert steps["detection"].total + steps["image_text"].total == 20
    assert (steps["detection"].total, steps["image_text"].total) == (10, 10)


def test_a_plan_adds_up(tiny_config: ModelConfig) -> None:
    rates = [rate("l4", "a:b", 1e9), replace(rate("l4", "a:b", 2e9), supervision="image_text")]

    plan = planned(tiny_config, rates=rates)

    boxes, pairs = plan.types
    assert pairs.images_per_process == 8
    assert pairs.images_at_a_time == 4
    assert pairs.num_texts == 32 * 3
    assert pairs.step_flops == 8 * pairs.image.model + 24 * pairs.text.model
    assert boxes.step_flops == 2 * boxes.image.model  # a frozen encoder remembers
    assert boxes.step_s == (boxes.step_flops / 1e9,) * 2
    assert plan.total_flops == 4 * (18 * boxes.step_flops + 30 * pairs.step_flops)
    assert plan.hours is not None
    assert plan.hours[0] * 3600 == pytest.approx(18 * boxes.step_flops / 1e9 + 30 * pairs.step_flops / 2e9)
    assert not plan.advice


def test_hours_are_unknown_without_a_rate_of_every_type(tiny_config: ModelConfig) -> None:
    plan = planned(tiny_config, rates=[rate("l4", "a:b", 1e9)])

    assert plan.hours is None
    assert "hours: not known" in printed(plan)


def test_the_same_recipe_on_the_same_gpu_is_the_best_guess() -> None:
    rates = [rate("v100", "a:b", 1.0), rate("l4", "a:b", 2.0), rate("l4", "c:d", 3.0)]

    def speed(gpu: str, recipe: str) -> Any:
        return expected_speed(rates, gpu=GPUS[gpu], recipe=recipe, supervision="detection")

    assert (speed("l4", "a:b").slow, speed("l4", "a:b").source) == (2.0, "l4 a:b")
    assert speed("l4", "c:d").fast == 3.0
    assert speed("l4", "other").slow == 3.0
    assert expected_speed(rates, gpu=None, recipe="a:b", supervision="detection") is None
    assert expected_speed(rates, gpu=GPUS["l4"], recipe="a:b", supervision="grounding") is None


def test_a_rate_of_another_gpu_gives_a_range_from_bandwidth_to_peak() -> None:
    speed = expected_speed([rate("v100", "a:b", 9.0)], gpu=GPUS["h100"], recipe="a:b", supervision="detection")

    assert speed is not None
    assert speed.slow == pytest.approx(9 * 3350 / 900)
    assert speed.fast == pytest.approx(9 * 989 / 125)


def test_what_does_not_fit_comes_with_what_does(tiny_config: ModelConfig) -> None:
    large = replace(PAIRS, batch_size=2**11, global_batch_size=None)
    small_gpu = replace(GPUS["l4"], memory_bytes=2.5e9)
    train = replace(TRAIN, image_text=large)

    plan = make_plan(tiny_config, train, recipe="a:b", sizes=SIZES, gpu=small_gpu, num_processes=1, rates=[])

    (advice,) = plan.advice
    assert advice.startswith("image_text: ")
    assert f"do not fit into {2.5 * (1 - HEADROOM):.1f} GB" in advice
    assert "--train.image-text.batch-size" in advice
    assert f"--train.image-text.global-batch-size {2**11}" in advice


def test_what_can_not_be_mended_by_smaller_parts_says_so(tiny_config: ModelConfig) -> None:
    large = replace(PAIRS, global_batch_size=2**15)
    train = replace(TRAIN, image_text=large)

    plan = make_plan(tiny_config, train, recipe="a:b", sizes=SIZES, gpu=GPUS["l4"], num_processes=1, rates=[])

    assert ["not even one image at a time" in advice for advice in plan.advice] == [True]


def test_a_gpu_without_bf16_is_told(tiny_config: ModelConfig) -> None:
    train = replace(TRAIN, precision="bf16")

    plan = make_plan(tiny_config, train, recipe="a:b", sizes=SIZES, gpu=GPUS["v100"], num_processes=1, rates=[])

    assert ["v100 has no bf16" in advice for advice in plan.advice] == [True]


def test_the_table_says_cost_and_hours(tiny_config: ModelConfig) -> None:
    rates = [rate("l4", "a:b", 1e6), replace(rate("l4", "a:b", 1e6), supervision="image_text")]
    plan = planned(tiny_config, rates=rates)
    assert plan.hours is not None

    text = printed(plan, price_per_gpu_hour=2.0)

    assert f"{plan.hours[0]:#.3g} hours" in text
    assert f"cost {plan.hours[0] * 8:#.3g} at 2 a GPU-hour" in text
    assert "a:b on 4 x l4" in text


def test_an_unknown_gpu_is_an_error() -> None:
    with pytest.raises(ValueError, match="no GPU 'tpu': there are v100, "):
        gpu_named("tpu")


def printed(plan: Plan, *, price_per_gpu_hour: float | None = None) -> str:
    console = Console(width=140)
    with console.capture() as capture:
        console.print(plan_tables(plan, price_per_gpu_hour=price_per_gpu_hour))
    return capture.get()
