"""The command line of the scripts."""

import pytest

from ray_jobs.command_line import as_flags


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
