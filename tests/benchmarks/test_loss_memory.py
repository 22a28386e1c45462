"""The memory that the losses are made to save, measured by the benchmark's own ruler at a reduced width."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")


def _load_benchmark() -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "loss_memory.py"
    spec = importlib.util.spec_from_file_location("loss_memory", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["loss_memory"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


BENCHMARK = _load_benchmark()


@pytest.mark.parametrize(
    ("loss", "num_images", "num_regions", "num_texts"),
    [
        ("alignment", 1, 22_400, 8_500),  # a grounding batch of one image: 0.76 GB
        ("hard", 192, 100, 37_000),  # image-text pairs, one GPU's share: 2.84 GB
        ("soft", 192, 100, 18_500),
        ("image_to_text", 192, 100, 18_500),
    ],
)
def test_chunks_take_a_tenth_of_the_matrix_at_most(
    loss: str, num_images: int, num_regions: int, num_texts: int
) -> None:
    case = BENCHMARK.Case(
        loss=loss, way="chunks", num_images=num_images, num_regions=num_regions, num_texts=num_texts, width=8
    )

    peak = BENCHMARK.measure_apart(case)["peak_bytes"]

    assert 0 < peak < 0.1 * case.matrix_bytes


def test_the_ruler_sees_a_whole_matrix() -> None:
    case = BENCHMARK.Case(loss="hard", way="whole", num_images=48, num_regions=100, num_texts=3_000, width=8)

    assert BENCHMARK.measure_apart(case)["peak_bytes"] > case.matrix_bytes
    assert BENCHMARK.measure_apart(replace(case, way="chunks"))["peak_bytes"] < 0.5 * case.matrix_bytes
