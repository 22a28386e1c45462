from dataclasses import replace

import pytest

from ray_jobs.job_config import load_recipe
from schemas.manifest import DatasetManifest

DATASET = DatasetManifest(name="mine", supervisions={}, boxed_concepts=[])


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        ("demo:pretrain", "demo-pretrain-5ba31a4e"),
        ("demo", "demo-pretrain-5ba31a4e"),
        ("demo:without_image_text", "demo-without_image_text-a76acd3e"),
        ("detclipv2_t:pretrain", "detclipv2_t-pretrain-3daaaacd"),
        ("detclipv2_l:pretrain", "detclipv2_l-pretrain-d05efab3"),
        ("finetune:small", "finetune-small-872b2d69"),
    ],
)
def test_runs_on_disk_keep_their_names(recipe: str, name: str) -> None:
    """A job that is submitted again finds its checkpoints by the name, also after an update of the code."""
    job = replace(load_recipe(recipe), concept_dictionary=None)

    assert job.run_name(DATASET) == name
