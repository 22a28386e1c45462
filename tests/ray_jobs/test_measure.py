from pathlib import Path

import pytest

from detclipv2.config import TrainConfig
from detclipv2.planning.training_plan import GPUS, PAPER_DATA, Rate, make_plan
from ray_jobs.job_config import load_recipe
from ray_jobs.measure import add_rates, measured_rates, paper_rates, read_rates
from schemas.manifest import canonical_json

ROOT = Path(__file__).parents[2]
PAPER_GPU_HOURS = 2100.0  # Table 5, DetCLIPv2-T
RATE = Rate(gpu="l4", recipe="a:b", supervision="detection", flops_per_s=2.5, source="measured")


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


@pytest.mark.slow
def test_the_paper_s_run_comes_out() -> None:
    job = load_recipe("detclipv2_t:pretrain")

    found = make_plan(
        job.model,
        job.train,
        recipe=job.recipe,
        sizes=PAPER_DATA,
        gpu=GPUS["v100"],
        num_processes=32,
        rates=paper_rates(),
    )

    assert [kind.steps_per_epoch for kind in found.types] == [5157, 6016, 2116]
    assert sum(kind.num_steps for kind in found.types) == pytest.approx(159_500, rel=0.001)
    assert found.hours is not None
    assert 2000 < found.hours[0] * 32 < PAPER_GPU_HOURS
    # Of the whole, by Table 5's hours: between 4 and 7 percent.
    assert 0.04 < found.total_flops / (PAPER_GPU_HOURS * 3600 * GPUS["v100"].peak_flops_per_s) < 0.07
    # Table 12 gives 20.7 GB; the plan counts CUDA's own memory and the buckets of data parallelism too.
    assert 20.7e9 < found.types[2].memory.total < 1.25 * 20.7e9


def test_measured_rates_replace_what_was_known(tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    faster = Rate(**{**vars(RATE), "flops_per_s": 5.0})
    other = Rate(**{**vars(RATE), "gpu": "h100"})

    assert read_rates(path) == []
    add_rates([RATE, other], path=path)
    add_rates([faster], path=path)

    assert read_rates(path) == [other, faster]
    path.write_text(canonical_json([{"gpu": "l4"}]))
    with pytest.raises(ValueError, match="is no table of measured rates"):
        read_rates(path)


def test_rates_are_kept_below_the_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed checkout may be read-only, and an image is."""
    monkeypatch.chdir(tmp_path)

    add_rates([RATE])

    assert read_rates() == [RATE]
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("*/*")] == ["outputs/measured_rates.json"]
