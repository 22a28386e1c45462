from typing import Any

import pytest
from rich.console import Console

from detclipv2.config import ModelConfig, Supervision, SupervisionConfig, TrainConfig
from detclipv2.planning.table import plan_tables
from detclipv2.planning.training_plan import GPUS, DataSize, Plan, Rate, make_plan


@pytest.fixture
def planned(tiny_config: ModelConfig) -> Any:
    """A plan with measured rates of these types."""
    boxed = SupervisionConfig(batch_size=2, image_size=64, num_concepts=10)
    pairs = SupervisionConfig(batch_size=4, image_size=64, global_batch_size=32)
    train = TrainConfig(epochs=3, detection=boxed, grounding=None, image_text=pairs)
    sizes: dict[Supervision, DataSize] = {
        "detection": DataSize(num_samples=41, num_concepts=20),
        "image_text": DataSize(num_samples=320, phrases_per_sample=2),
    }

    def plan(*measured: Supervision) -> Plan:
        rates = [Rate(gpu="l4", recipe="a:b", supervision=name, flops_per_s=1e6, source="here") for name in measured]
        return make_plan(tiny_config, train, recipe="a:b", sizes=sizes, gpu=GPUS["l4"], num_processes=4, rates=rates)

    return plan


def printed(plan: Plan, *, price_per_gpu_hour: float | None = None) -> str:
    console = Console(width=140)
    with console.capture() as capture:
        console.print(plan_tables(plan, price_per_gpu_hour=price_per_gpu_hour))
    return capture.get()


def test_the_table_says_cost_and_hours(planned: Any) -> None:
    plan = planned("detection", "image_text")
    assert plan.hours is not None

    text = printed(plan, price_per_gpu_hour=2.0)

    assert f"{plan.hours[0]:#.3g} hours" in text
    assert f"cost {plan.hours[0] * 8:#.3g} at 2 a GPU-hour" in text
    assert "a:b on 4 x l4" in text


def test_unknown_hours_are_said_to_be_so(planned: Any) -> None:
    assert "hours: not known" in printed(planned("detection"))
