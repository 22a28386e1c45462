from pathlib import Path

import pytest

from detclipv2.config import TrainConfig
from detclipv2.planning.training_plan import GPUS, PAPER_DATA
from ray_jobs.job_config import load_recipe
from ray_jobs.measure import measured_rates

ROOT = Path(__file__).parents[2]


def test_measured_steps_are_real(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer of them, of the demo's detection alone."""
    monkeypatch.setattr("ray_jobs.measure.NUM_WARMUP_STEPS", 1)
    monkeypatch.setattr("ray_jobs.measure.NUM_TIMED_STEPS", 1)
    job = load_recipe("demo:without_image_text")
    changed = TrainConfig(**{**vars(job.train), "grounding": None})

    (rate,) = measured_rates(type(job)(**{**vars(job), "train": changed}), gpu=None, sizes=PAPER_DATA)

    assert (rate.gpu, rate.recipe, rate.supervision) == ("cpu", "demo:without_image_text", "detection")
    assert 1e8 < rate.flops_per_s < 1e13


def test_a_gpu_that_is_not_there_cannot_be_measured() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ValueError, match="this machine has no l4"):
        measured_rates(load_recipe("demo:pretrain"), gpu=GPUS["l4"], sizes=PAPER_DATA)
