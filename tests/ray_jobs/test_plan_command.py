import re
import tomllib
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import tyro

from detclipv2.cli import main
from ray_jobs.job_config import load_recipe
from ray_jobs.plan_command import PlanOptions, data_sizes, plan
from schemas.manifest import DatasetManifest, SupervisionSplit

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_docs_show_what_the_command_prints(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = (ROOT / "docs" / "recipes.md").read_text()
    shown = re.findall(r"^`detclip plan ([^`]*)`\n\n(?:[^`]+\n\n)?```text\n(.*?)\n```", page, re.MULTILINE | re.DOTALL)

    assert len(shown) == 3
    for arguments, expected in shown:
        plan(tyro.cli(PlanOptions, args=[*arguments.split(), "--rates", str(tmp_path / "none.json")]))
        printed = capsys.readouterr().out
        assert "\n".join(line.rstrip() for line in printed.rstrip().splitlines()) == expected


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


def test_no_gpus_are_an_error() -> None:
    with pytest.raises(ValueError, match="--gpus 0: at least 1"):
        plan(PlanOptions(recipe="demo:pretrain", gpus=0))


def test_the_entry_point_names_the_command() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["detclip.commands"]["plan"].partition(":")

    assert getattr(import_module(module), name) == {"plan": plan}


def test_detclip_plan_is_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    entry_point = EntryPoint(name="plan", value="ray_jobs.plan_command:commands", group="detclip.commands")
    monkeypatch.setattr("detclipv2.cli.entry_points", lambda **_: (entry_point,))
    monkeypatch.setattr("sys.argv", ["detclip", "plan", "--recipe", "demo:pretrain", "--gpu", "abacus"])

    with pytest.raises(SystemExit) as stop:
        main()

    assert stop.value.code == 2
    assert "error: no GPU 'abacus': there are v100" in capsys.readouterr().err
