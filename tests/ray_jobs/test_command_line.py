"""The command line of the scripts."""

from dataclasses import replace

import pytest

from ray_jobs.command_line import as_flags, parsed
from ray_jobs.job_config import JobConfig, load_recipe


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--model.definitions", "on"], ["--model.definitions"]),
        (
            ["--model.gradient_checkpointing", "off", "--name", "on"],
            ["--model.no-gradient_checkpointing", "--name", "on"],
        ),
        (["--train.loss.caption-as-concept", "off"], ["--train.loss.no-caption-as-concept"]),
        (["--model.definitions", "--name", "off"], ["--model.definitions", "--name", "off"]),
        (["on"], ["on"]),
        ([], []),
    ],
)
def test_switches_of_older_scripts_are_flags(arguments: list[str], wanted: list[str]) -> None:
    assert as_flags(arguments) == wanted


def _job(recipe: str, *arguments: str) -> JobConfig:
    return parsed(JobConfig, arguments, default=load_recipe(recipe))


@pytest.mark.parametrize("switch", [("--train.image-text", "off"), ("--train.image_text=off",)])
def test_a_type_is_switched_off(switch: tuple[str, ...]) -> None:
    recipe = load_recipe("demo:pretrain")
    assert recipe.train == _job("demo:pretrain").train

    job = _job("demo:pretrain", *switch, "--train.image-text.image-size", "64", "--train.num-steps", "5")

    assert job.train == replace(recipe.train, image_text=None, num_steps=5)


def test_the_last_switch_counts() -> None:
    job = _job("demo:pretrain", "--train.detection", "off", "--train.grounding", "on", "--train.detection", "on")

    assert job.train == load_recipe("demo:pretrain").train


def test_a_type_that_is_off_in_the_recipe_stays_off() -> None:
    assert _job("finetune:small", "--train.grounding", "off").train == load_recipe("finetune:small").train
    with pytest.raises(ValueError, match="--train.grounding on: the recipe has no settings for it.*detection"):
        _job("finetune:small", "--train.grounding", "on")


def test_what_tyro_says_of_an_option_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (("--train.num-steps", "many"), "--train.num-steps"), (("--train.stepps", "5"), "stepps"):
        with pytest.raises(SystemExit) as ended:
            _job("demo:pretrain", *arguments)

        assert ended.value.code == 2
        assert message in capsys.readouterr().err
