"""The memory that the losses are made to save, measured as the benchmark does, at a reduced width."""

import sys
from dataclasses import replace

import pytest

from benchmarks.loss_memory import Case, Loss, measure_apart

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")


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
    loss: Loss, num_images: int, num_regions: int, num_texts: int
) -> None:
    case = Case(loss=loss, way="chunks", num_images=num_images, num_regions=num_regions, num_texts=num_texts, width=8)

    peak = measure_apart(case)["peak_bytes"]

    assert 0 < peak < 0.1 * case.matrix_bytes


def test_a_whole_matrix_is_measured() -> None:
    case = Case(loss="hard", way="whole", num_images=48, num_regions=100, num_texts=3_000, width=8)

    assert measure_apart(case)["peak_bytes"] > case.matrix_bytes
    assert measure_apart(replace(case, way="chunks"))["peak_bytes"] < 0.5 * case.matrix_bytes
