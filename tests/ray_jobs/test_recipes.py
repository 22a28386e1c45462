from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import pytest

from ray_jobs.job_config import load_recipe

ROOT = Path(__file__).parents[2]


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
