import re
import tomllib
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import tyro
from pydantic import TypeAdapter

from detclipv2.cli import main
from detclipv2.config import TrainConfig
from detclipv2.planning.training_plan import GPUS, PAPER_DATA, Rate, make_plan
from ray_jobs.job import load_recipe
from ray_jobs.measure import measured_rates
from ray_jobs.plan import PlanOptions, data_sizes, plan
from ray_jobs.rates import PAPER_GPU_HOURS, add_rates, paper_rates, read_rates
from schemas.manifest import DatasetManifest, SupervisionSplit, canonical_json

ROOT = Path(__file__).parents[2]
RATE = Rate(gpu="l4", recipe="a:b", supervision="detection", flops_per_s=2.5, source="measured")


@pytest.mark.parametrize("recipe", ["detclipv2_t:pretrain", "detclipv2_l:pretrain"])
def test_recipes_have_the_settings_of_table_9(recipe: str) -> None:
    job = load_recipe(recipe)
    boxes, pairs, optim = job.train.detection, job.train.image_text, job.train.optim
    batch, rate, at_a_time = {32: (128, 2.8e-4, 192), 64: (256, 4e-4, 96)}[job.num_workers]

    assert boxes is not None and pairs is not None and job.train.grounding is not None
    assert (boxes.num_concepts, job.train.grounding.num_concepts) == (150, 100)
    assert boxes.samples_per_worker(job.num_workers) * job.num_workers == batch
    assert (pairs.global_batch_size, pairs.batch_size, pairs.image_size) == (6144, at_a_time, 320)
    assert pairs.samples_per_worker(job.num_workers) == pairs.batch_size  # the paper needs no gradient caching
    assert optim.reference_batch_size is not None
    assert optim.learning_rate * (batch / optim.reference_batch_size) ** 0.5 == pytest.approx(rate, rel=0.02)
    assert job.train.epochs == 12


def test_every_ablation_is_named_by_itself_and_changes_one_thing() -> None:
    module = import_module("ray_jobs.recipes.ablations")
    names = [name for name in vars(module) if name.islower() and not name.startswith("_")]
    recipes = {
        name: load_recipe(f"ablations:{name}") for name in names if callable(vars(module)[name]) and name != "replace"
    }
    recipes = {name: job for name, job in recipes.items() if vars(module)[name].__module__ == module.__name__}

    assert len(recipes) > 30
    assert {name: job.recipe for name, job in recipes.items()} == {name: f"ablations:{name}" for name in recipes}
    base = asdict(recipes["base"].train.loss)
    k_25 = asdict(recipes["k_25"].train.loss)
    assert {key for key in base if base[key] != k_25[key]} == {"num_proposals"}
    assert recipes["proposals_iou"].model.objectness


@pytest.mark.slow
def test_docs_show_what_the_command_prints(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = (ROOT / "docs" / "recipes.md").read_text()
    shown = re.findall(r"^`detclip plan ([^`]*)`\n\n(?:[^`]+\n\n)?```text\n(.*?)\n```", page, re.MULTILINE | re.DOTALL)

    assert len(shown) == 3
    for arguments, expected in shown:
        plan(tyro.cli(PlanOptions, args=[*arguments.split(), "--rates", str(tmp_path / "none.json")]))
        printed = capsys.readouterr().out
        assert "\n".join(line.rstrip() for line in printed.rstrip().splitlines()) == expected


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


def test_the_committed_table_can_be_read() -> None:
    assert all(rate.flops_per_s > 0 for rate in read_rates())
    assert TypeAdapter(list[Rate]).validate_python([asdict(rate) for rate in read_rates()]) == read_rates()


def test_sizes_of_a_dataset() -> None:
    manifest = DatasetManifest(
        name="mine",
        supervisions={
            "detection": SupervisionSplit(num_samples=7, shards=[], vocabulary=["dog", "owl"]),
            "grounding": SupervisionSplit(num_samples=8, shards=[], vocabulary=["a dog", "kite"]),
            "image_text": SupervisionSplit(num_samples=9, shards=[], vocabulary=["kite", "pier"]),
        },
        boxed_concepts=[],
    )

    sizes = data_sizes(manifest, load_recipe("demo:pretrain"))

    assert {name: size.num_samples for name, size in sizes.items()} == {
        "detection": 7,
        "grounding": 8,
        "image_text": 9,
    }
    assert sizes["detection"].num_concepts == 2
    assert sizes["grounding"].num_concepts == 3  # its own and those of captions, "kite" once


def test_plan_of_a_dataset_on_cpus_says_that_nothing_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "datasets" / "mine"
    folder.mkdir(parents=True)
    split = SupervisionSplit(num_samples=100, shards=[], vocabulary=["dog"])
    manifest = DatasetManifest(name="mine", supervisions={"detection": split}, boxed_concepts=["dog"])
    (folder / "MANIFEST.json").write_text(manifest.model_dump_json())
    options = PlanOptions(
        recipe="demo:pretrain", gpu="cpu", gpus=1, data=folder / "MANIFEST.json", rates=tmp_path / "none.json"
    )

    plan(options)

    printed = capsys.readouterr().out
    assert "demo:pretrain on 1 x CPUs" in printed
    assert "grounding" not in printed
    assert "no rate was measured on this hardware" in printed


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


def test_no_gpus_are_an_error() -> None:
    with pytest.raises(ValueError, match="--gpus 0: at least 1"):
        plan(PlanOptions(recipe="demo:pretrain", gpus=0))


def test_the_entry_point_names_the_command() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["detclip.commands"]["plan"].partition(":")

    assert getattr(import_module(module), name) == {"plan": plan}


def test_detclip_plan_is_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    entry_point = EntryPoint(name="plan", value="ray_jobs.plan:commands", group="detclip.commands")
    monkeypatch.setattr("detclipv2.cli.entry_points", lambda **_: (entry_point,))
    monkeypatch.setattr("sys.argv", ["detclip", "plan", "--recipe", "demo:pretrain", "--gpu", "abacus"])

    with pytest.raises(SystemExit) as stop:
        main()

    assert stop.value.code == 2
    assert "error: no GPU 'abacus': there are v100" in capsys.readouterr().err
