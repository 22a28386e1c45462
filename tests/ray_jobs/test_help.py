"""Help of the commands: each option is described by a text of its own."""

import argparse
import re
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import tyro

from detclipv2.cli import predict
from detclipv2.text.build_dictionary import dictionary
from pipelines.inspect import data_commands
from ray_jobs import build_dataset, demo, evaluate, finetune, plan_command, promote, ui
from ray_jobs.job_config import JobConfig, load_recipe

# A script with a recipe is parsed as `run_cli` does it: its options are those of the recipe's configuration.
COMMANDS: dict[str, tuple[Callable[..., Any], Callable[[], Any] | None]] = {
    "pretrain.py": (JobConfig, partial(load_recipe, "demo:pretrain")),
    "finetune.py": (finetune.FinetuneOptions, lambda: finetune.options_of(load_recipe("finetune:small"))),
    "build_dataset.py": (build_dataset.Options, None),
    "evaluate.py": (evaluate.EvaluateConfig, None),
    "promote.py": (promote.PromoteConfig, None),
    "demo.py": (demo.DemoConfig, None),
    "ui.py": (ui.UiConfig, None),
    "detclip predict": (predict, None),
    "detclip dictionary": (dictionary, None),
    **{f"detclip {name}": (command, None) for name, command in plan_command.commands.items()},
    **{f"detclip data {name}": (command, None) for name, command in data_commands.commands.items()},
}


def texts_of(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Text of every option and group of options, without the default value that tyro adds."""
    options = {action.dest: action.help or "" for action in parser._actions if action.dest != "help"}
    groups = {
        title.removesuffix(" options"): group.description or ""
        for group in parser._action_groups
        if (title := group.title or "") not in ("options", "positional arguments")
    }
    without_default = {name: re.split(r" ?\((?:default: |required\))", text)[0] for name, text in options.items()}
    return groups | without_default


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_text_of_its_own(name: str) -> None:
    command, default = COMMANDS[name]
    given = {} if default is None else {"default": default()}
    texts = texts_of(tyro.extras.get_parser(command, config=(tyro.conf.AvoidSubcommands,), **given))
    assert texts
    assert [option for option, text in texts.items() if not text] == []
    # The supervision types have the same fields: --train.detection.flip and --train.grounding.flip are one field.
    fields: dict[str, set[str]] = defaultdict(set)
    for option, text in texts.items():
        fields[text].add(option.rpartition(".")[2])
    assert {text: names for text, names in fields.items() if len(names) > 1} == {}
    # tyro keeps the line breaks of a docstring.
    lines = [line for text in texts.values() for line in text.split("\n")[:-1]]
    assert [line for line in lines if not line.endswith((".", ";"))] == []
