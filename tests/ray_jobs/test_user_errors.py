"""User errors at the doors of the training: one line on stderr, exit status 2, before a cluster starts."""

import io
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from rich.console import Console

from ray_jobs import demo, evaluate, finetune, pretrain, promote, ui
from ray_jobs.command_line import recipe_argument, run_cli
from ray_jobs.job_config import JobConfig, load_recipe
from tests.ray_jobs.small_dataset import sample, write_dataset

SAMPLES = [
    *[sample("detection", ["apple"], boxes=1)] * 16,
    *[sample("grounding", ["an apple"], boxes=1)] * 16,
    *[sample("image_text", ["a kite"])] * 32,
]


def _pretrain() -> None:
    recipe = recipe_argument(default="demo:pretrain")
    run_cli(JobConfig, pretrain.main, default=lambda: load_recipe(recipe))


def _finetune() -> None:
    chosen = recipe_argument(default="finetune:small")
    run_cli(
        finetune.FinetuneOptions,
        lambda options: finetune.main(finetune.finetune_job(chosen, options)),
        default=lambda: finetune.options_of(load_recipe(chosen)),
    )


# As the scripts call them.
DOORS: dict[str, Callable[[], None]] = {
    "pretrain": _pretrain,
    "finetune": _finetune,
    "evaluate": lambda: run_cli(evaluate.EvaluateConfig, evaluate.main),
    "promote": lambda: run_cli(promote.PromoteConfig, promote.main),
    "demo": lambda: run_cli(demo.DemoConfig, demo.main),
    "ui": lambda: run_cli(ui.UiConfig, ui.main),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of a dataset that every option below could be used with."""
    return write_dataset(tmp_path_factory.mktemp("data"), SAMPLES, validation_boxes=1)


@pytest.fixture
def line_of(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Sequence[str]], str]:
    """The one line that a command ends with."""

    def starts_ray() -> None:
        raise AssertionError("a cluster starts")

    def starts_process(*_: object, **__: object) -> None:
        raise AssertionError("a process starts")

    def call(command: Sequence[str]) -> str:
        door, *options = command
        if door not in ("demo", "ui") and "--data" not in options:
            options += ["--data", str(data)]
        if door == "finetune" and "--model" not in options:
            options += ["--model", str(tmp_path)]
        if door != "evaluate" and "--outputs" not in options:
            options += ["--outputs", str(tmp_path / "outputs")]
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        monkeypatch.setattr(pretrain, "connect", starts_ray)
        monkeypatch.setattr(subprocess, "Popen", starts_process)
        monkeypatch.setattr(sys, "argv", [f"{door}.py", *options])
        with pytest.raises(SystemExit) as ended:
            DOORS[door]()
        said = capsys.readouterr()
        assert ended.value.code == 2, said.out + said.err
        (line,) = said.err.splitlines()
        return line

    return call


FILE = str(Path(__file__))
TABLE: list[tuple[list[str], str]] = [
    (["pretrain", "nowhere:pretrain"], "no recipe 'nowhere:pretrain': there are ablations, demo,"),
    (["pretrain", "demo:nothing"], "has no recipe 'nothing': there are pretrain, without_image_text"),
    (["pretrain", "demo:FROZEN"], "has no recipe 'FROZEN'"),
    (["pretrain", "demo:replace"], "has no recipe 'replace'"),
    (["pretrain", "detclipv2_t:boxed"], "has no recipe 'boxed': there are pretrain"),
    (["pretrain", "ablations:_loss"], "has no recipe '_loss': there are base,"),
    (["finetune", "finetune"], "has no recipe 'pretrain': there are coco, lvis, odinw, small"),
    (["pretrain", "--data", "missing/MANIFEST.json"], "no dataset at missing/MANIFEST.json"),
    (["pretrain", "--data", FILE], "no dataset at"),
    (["pretrain", "--name", "a/b"], "name 'a/b': 1 to 200 characters"),
    (["pretrain", "--name", ".."], "name '..': 1 to 200 characters"),
    (["pretrain", "--name", ""], "name '': 1 to 200 characters"),
    (["pretrain", "--registered-model", "a:b"], "registered_model 'a:b': 1 to 200 characters"),
    (["finetune", "--registered-model", "it's"], 'registered_model "it\'s": 1 to 200 characters'),
    (["promote", "--registered-model", ""], "registered_model '': 1 to 200 characters"),
    (["pretrain", "--num-workers", "0"], "num_workers 0: at least 1"),
    (["pretrain", "--num-workers", "-3"], "num_workers -3: at least 1"),
    (["pretrain", "--max-failures", "-2"], "max_failures -2: at least 0, or -1 for any number"),
    (["pretrain", "--num-checkpoints", "1"], "num_checkpoints 1: at least 2"),
    (["pretrain", "--validate-every", "7"], "validate_every 7: a multiple of train.checkpoint_every, 50"),
    (["pretrain", "--validation-gpus", "-1"], "validation_gpus -1.0: at least 0"),
    (["pretrain", "--train.num-steps", "0"], "num_steps 0: at least 1"),
    (["pretrain", "--train.num-steps", "None"], "num_steps None, epochs None: give one of the two"),
    (["pretrain", "--train.epochs", "nan", "--train.num-steps", "None"], "epochs nan: above 0"),
    (["pretrain", "--train.log-every", "0"], "log_every 0: at least 1"),
    (["pretrain", "--train.checkpoint-every", "0"], "checkpoint_every 0: at least 1"),
    (["pretrain", "--train.image-text-after", "-1"], "image_text_after -1: at least 0"),
    (["pretrain", "--train.image-text-after", "720"], "image-text pairs never take part"),
    (["pretrain", "--train.loader-workers", "-1"], "loader_workers -1"),
    (["pretrain", "--train.optim.learning-rate", "-1"], "learning_rate -1.0: above 0"),
    (["pretrain", "--train.optim.learning-rate", "nan"], "learning_rate nan: above 0"),
    (["finetune", "--train.optim.learning-rate", "inf"], "learning_rate inf: above 0"),
    (["pretrain", "--train.optim.weight-decay", "-0.1"], "weight_decay -0.1: at least 0"),
    (["pretrain", "--train.optim.ema-decay", "1"], "ema_decay 1.0: above 0 and below 1"),
    (["pretrain", "--train.optim.clip-grad-norm", "0"], "clip_grad_norm 0.0: above 0"),
    (["pretrain", "--train.detection.batch-size", "0"], "batch_size 0"),
    (["pretrain", "--train.detection.flip", "1.5"], "flip 1.5: from 0 to 1"),
    (["pretrain", "--train.detection.num-concepts", "-1"], "num_concepts -1: at least 0"),
    (["pretrain", "--train.image-text.weight", "0"], "weight 0.0: above 0; `off` leaves the type out"),
    (["pretrain", "--train.loss.temperature", "0"], "temperature 0.0: above 0"),
    (["pretrain", "--train.loss.num-proposals", "0"], "num_proposals 0: at least 1"),
    (["pretrain", "--train.loss.matching", "max_box"], "loss.matching 'max_box' compares captions"),
    (["pretrain", "--train.detection", "maybe"], "--train.detection maybe: on or off"),
    (["pretrain", "demo:without_image_text", "--train.image-text", "on"], "--train.image-text on: the recipe has no"),
    (["pretrain", "finetune:small", "--train.detection", "off"], "the recipe trains on no type of supervision"),
    (["pretrain", "--model.backbone", "resnet5000"], "timm has no backbone 'resnet5000'"),
    (["pretrain", "--model.channels", "60"], "channels 60: a multiple of norm_groups, 16"),
    (["pretrain", "--model.embed-dim", "0"], "embed_dim 0: at least 1"),
    (["pretrain", "--model.drop-path", "1"], "drop_path 1.0: at least 0 and below 1"),
    (["pretrain", "--model.max-text-tokens", "2"], "max_text_tokens 2: at least 3"),
    (["pretrain", "--model.prompt", "a photo"], "prompt 'a photo': wanted one {}"),
    (["pretrain", "--model.text-weights", "nowhere"], "nowhere"),
    (["pretrain", "--model.definitions"], "definitions need a concept dictionary"),
    (["pretrain", "--concept-dictionary", "gone.json", "--model.definitions"], "no concept dictionary in gone.json"),
    (["pretrain", "--start-from", str(Path(FILE).parent)], "no model in"),
    (["finetune", "--model", str(Path(FILE).parent)], "no model in"),
    (["evaluate", "--model", str(Path(FILE).parent)], "no model in"),
    (["evaluate", "--model", "m", "--out", str(Path(FILE).parent)], "a folder; name a file in it"),
    (["evaluate", "--model", "m", "--out", f"{FILE}/found.json"], "nothing can be written there"),
    (["pretrain", "--use-gpu"], "use_gpu: this machine has no GPU"),
    (["pretrain", "--outputs", FILE], "nothing can be written there"),
    (["promote", "--outputs", FILE], "nothing can be written there"),
    (["demo", "--outputs", FILE], "nothing can be written there"),
    (["ui", "--outputs", FILE], "nothing can be written there"),
    (["pretrain", "--storage", f"{FILE}/runs"], "nothing can be written there"),
    (["pretrain", "--storage", "nothing://bucket/runs"], "no client for nothing:// is known"),
    (["pretrain", "--tracking-uri", "nonsense"], "tracking_uri nonsense: no MLflow there"),
    (["pretrain", "--tracking-uri", "ftp://host"], "tracking_uri ftp://host: no MLflow there"),
    (["promote", "--tracking-uri", "http://127.0.0.1:9"], "tracking_uri http://127.0.0.1:9: no MLflow there"),
    (["promote", "--metric", "map"], "no metric 'map': there are lvis_ap_300,"),
    (["promote", "--min-gain", "nan"], "min_gain nan: a finite number"),
    (["promote", "--version", "77"], "detclipv2 has no version '77'"),
    (["demo", "--recipe", "nowhere"], "no recipe 'nowhere'"),
    (["demo", "--scale", "huge"], "huge"),
    (["ui", "--mlflow-port", "0"], "--mlflow-port 0: from 1 to 65535"),
    (["ui", "--ray", "--ray-port", "3000"], "port 3000: another UI has this port, too"),
]


@pytest.mark.parametrize(("command", "message"), TABLE, ids=[" ".join(command) for command, _ in TABLE])
def test_a_slip_is_one_line(command: list[str], message: str, line_of: Callable[[Sequence[str]], str]) -> None:
    line = line_of(command)

    assert line.startswith("error: ")
    assert message in line


def test_fine_tuning_asks_for_its_model_and_its_data(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["finetune.py"])

    with pytest.raises(SystemExit) as ended:
        DOORS["finetune"]()

    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "--model" in said and "--data" in said


@pytest.mark.parametrize(
    ("changes", "there", "message"),
    [
        (
            {"num_workers": 3},
            {"CPU": 2.0},
            "3 worker(s) take a CPU each, and the cluster has 2: train with --num-workers 2",
        ),
        ({"num_workers": 4, "min_workers": 3}, {"CPU": 2.0}, "3 worker(s) take a CPU each"),
        (
            {"use_gpu": True},
            {"CPU": 2.0},
            "2 worker(s) take a GPU each, and the cluster has 0: train with --no-use-gpu",
        ),
        ({"num_workers": 2}, {"CPU": 2.0}, None),
        ({"num_workers": 4, "min_workers": 2}, {"CPU": 2.0}, None),
    ],
)
def test_a_machine_that_has_too_little_is_named(
    changes: dict[str, Any], there: dict[str, float], message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = replace(load_recipe("demo:pretrain"), **changes)
    monkeypatch.setattr(ray, "cluster_resources", lambda: there)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    said = io.StringIO()
    console = Console(file=said, width=200)

    if message is None:
        pretrain.check_cluster(job, console=console)
    else:
        with pytest.raises(ValueError, match=re.escape(message)):
            pretrain.check_cluster(job, console=console)
        # A cluster that others run may grow: there the training waits.
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
        pretrain.check_cluster(job, console=console)
        assert "training waits for more" in said.getvalue()
