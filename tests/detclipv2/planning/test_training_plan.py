from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from detclipv2.config import ModelConfig, Supervision, SupervisionConfig, TrainConfig
from detclipv2.planning.flops import image_flops
from detclipv2.planning.memory import HEADROOM
from detclipv2.planning.training_plan import (
    GPUS,
    PAPER_DATA,
    DataSize,
    Plan,
    Rate,
    distinct_texts,
    encoded_texts,
    expected_speed,
    gpu_named,
    gpu_of,
    make_plan,
    train_flops,
)

BOXED = SupervisionConfig(batch_size=2, image_size=64, num_concepts=10)
PAIRS = SupervisionConfig(batch_size=4, image_size=64, global_batch_size=32)
TRAIN = TrainConfig(epochs=3, detection=BOXED, grounding=None, image_text=PAIRS)
ALL_TYPES = replace(TRAIN, grounding=BOXED, image_text=replace(PAIRS, global_batch_size=None))
SIZES: dict[Supervision, DataSize] = {
    "detection": DataSize(num_samples=41, num_concepts=20),
    "image_text": DataSize(num_samples=320, phrases_per_sample=2),
}


def rate(gpu: str, recipe: str, flops_per_s: float) -> Rate:
    return Rate(gpu=gpu, recipe=recipe, supervision="detection", flops_per_s=flops_per_s, source=f"{gpu} {recipe}")


def planned(model: ModelConfig, *, rates: Sequence[Rate] = (), **changes: Any) -> Plan:
    train = replace(TRAIN, **changes)
    return make_plan(model, train, recipe="a:b", sizes=SIZES, gpu=GPUS["l4"], num_processes=4, rates=rates)


def test_steps_of_epochs(tiny_config: ModelConfig) -> None:
    boxes, pairs = planned(tiny_config).types

    assert (boxes.images, boxes.steps_per_epoch, boxes.num_steps) == (8, 6, 18)
    assert (pairs.images, pairs.steps_per_epoch, pairs.num_steps) == (32, 10, 30)


def test_steps_of_a_number_of_steps_are_those_of_the_alternation(tiny_config: ModelConfig) -> None:
    boxes, pairs = planned(tiny_config, epochs=None, num_steps=20, image_text_after=4).types

    # Four steps of boxes alone, then one pass of 6 and 10.
    assert boxes.num_steps + pairs.num_steps == 20
    assert (boxes.num_steps, pairs.num_steps) == (10, 10)


def test_a_plan_adds_up(tiny_config: ModelConfig) -> None:
    rates = [rate("l4", "a:b", 1e9), replace(rate("l4", "a:b", 2e9), supervision="image_text")]

    plan = planned(tiny_config, rates=rates)

    boxes, pairs = plan.types
    assert pairs.images_per_process == 8
    assert pairs.images_at_a_time == 4
    assert pairs.num_texts == 32 * 3
    assert pairs.step_flops == 8 * pairs.image.model + 24 * pairs.text.total
    assert boxes.step_flops == 2 * boxes.image.model  # a frozen encoder remembers
    assert boxes.step_s == (boxes.step_flops / 1e9,) * 2
    assert plan.total_flops == 4 * (18 * boxes.step_flops + 30 * pairs.step_flops)
    assert plan.hours is not None
    assert plan.hours[0] * 3600 == pytest.approx(18 * boxes.step_flops / 1e9 + 30 * pairs.step_flops / 2e9)
    assert not plan.advice


def test_hours_are_unknown_without_a_rate_of_every_type(tiny_config: ModelConfig) -> None:
    plan = planned(tiny_config, rates=[rate("l4", "a:b", 1e9)])

    assert plan.hours is None


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
    small_gpu = replace(GPUS["l4"], memory_gb=2.5)
    train = replace(TRAIN, image_text=large)

    plan = make_plan(tiny_config, train, recipe="a:b", sizes=SIZES, gpu=small_gpu, num_processes=1, rates=[])

    (advice,) = plan.advice
    assert advice.startswith("image_text: ")
    assert f"do not fit into {2.5 * (1 - HEADROOM):.1f} GB" in advice
    assert "--train.image-text.batch-size" in advice
    assert f"--train.image-text.global-batch-size {2**11}" in advice


def test_what_cannot_be_fixed_by_smaller_parts_says_so(tiny_config: ModelConfig) -> None:
    large = replace(PAIRS, global_batch_size=2**15)
    train = replace(TRAIN, image_text=large)

    plan = make_plan(tiny_config, train, recipe="a:b", sizes=SIZES, gpu=GPUS["l4"], num_processes=1, rates=[])

    assert ["not even one image at a time" in advice for advice in plan.advice] == [True]


def test_a_gpu_without_bf16_is_told(tiny_config: ModelConfig) -> None:
    train = replace(TRAIN, precision="bf16")

    plan = make_plan(tiny_config, train, recipe="a:b", sizes=SIZES, gpu=GPUS["v100"], num_processes=1, rates=[])

    assert ["v100 has no bf16" in advice for advice in plan.advice] == [True]


def test_train_flops_are_the_model_flops_of_each_type(tiny_config: ModelConfig) -> None:
    sizes: dict[Any, DataSize] = dict.fromkeys(
        ALL_TYPES.supervisions(), DataSize(num_samples=9, num_concepts=20, phrases_per_sample=2)
    )

    counted = train_flops(tiny_config, ALL_TYPES, sizes=sizes, world_size=1)

    assert counted == {
        name: image_flops(
            tiny_config, ALL_TYPES, name, num_texts=distinct_texts(ALL_TYPES, name, sizes=sizes, world_size=1)
        ).model
        for name in ("detection", "grounding", "image_text")
    }


@pytest.mark.parametrize(
    ("supervision", "size", "expected"),
    [
        ("detection", DataSize(num_samples=9, num_concepts=10), 10),  # every image shows all
        ("detection", DataSize(num_samples=9, num_concepts=40), 18),  # 40 (1 - (30/40)^2) = 17.5
        ("image_text", DataSize(num_samples=9, phrases_per_sample=2.5), 14),  # 4 pairs of 2.5 phrases and a caption
    ],
)
def test_expected_texts_of_a_step(supervision: Any, size: DataSize, expected: int) -> None:
    assert distinct_texts(ALL_TYPES, supervision, sizes={supervision: size}, world_size=1) == expected


def test_a_contrastive_step_of_the_paper_has_37_thousand_texts() -> None:
    train = replace(ALL_TYPES, image_text=SupervisionConfig(batch_size=192, image_size=320, global_batch_size=6144))

    assert distinct_texts(train, "image_text", sizes=PAPER_DATA, world_size=32) == 36_864
    assert distinct_texts(train, "image_text", sizes=PAPER_DATA, world_size=8) == 36_864


def test_a_frozen_encoder_reads_new_texts_alone(tiny_config: ModelConfig) -> None:
    assert encoded_texts(tiny_config, "detection", 100) == 0
    assert encoded_texts(tiny_config, "image_text", 100) == 100
    assert encoded_texts(replace(tiny_config, text_training="trained"), "detection", 100) == 100


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("Tesla V100-SXM2-32GB", "v100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA A100 80GB PCIe", "a100-80"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA L40S", None),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_what_a_device_calls_itself(device: str, name: str | None) -> None:
    found = gpu_of(device)

    assert (found and found.name) == name


def test_an_unknown_gpu_names_those_that_are_known() -> None:
    with pytest.raises(ValueError, match="no GPU 'tpu': there are v100, "):
        gpu_named("tpu")
    assert all(gpu_named(name).name == name for name in GPUS)
