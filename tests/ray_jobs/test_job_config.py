from dataclasses import replace
from pathlib import Path

import pytest
from upath import UPath

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


def test_paths_of_a_job_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip").mkdir()
    job = load_recipe("detclipv2_t:pretrain")
    assert job.concept_dictionary == Path("concepts.json")
    remote = replace(job, data=UPath("memory://data/MANIFEST.json"), start_from=Path("outputs/models/a"))
    remote = replace(remote, model=replace(job.model, text_weights="quick_gelu:clip"))

    found = remote.absolute()

    assert (found.concept_dictionary, found.start_from) == (tmp_path / "concepts.json", tmp_path / "outputs/models/a")
    assert (found.data, found.outputs) == (remote.data, tmp_path / "outputs")
    assert found.model.text_weights == f"quick_gelu:{tmp_path / 'clip'}"
    assert job.absolute().model == job.model, "a name is no path"
