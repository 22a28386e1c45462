"""Command line of the scripts: options from a dataclass, user errors as one line."""

import io
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from typing import Any, TypeVar

import tyro

from detclipv2.terminal import make_output_inert
from ray_jobs.interrupts import end_as_at_ctrl_c, end_at_once, is_ending

Config = TypeVar("Config")

# Flags that took "on" or "off" in version 0.1.
_FORMER_SWITCHES = {"definitions", "objectness", "deformable", "gradient-checkpointing", "caption-as-concept"}
_TYPES = {f"--train.{name.replace('_', '-')}": name for name in ("detection", "grounding", "image_text")}


def run_cli(
    config_type: type[Config], main: Callable[[Config], None], *, default: Callable[[], Config] | None = None
) -> None:
    """Parse the command line into ``config_type`` and call ``main`` with it.

    A ``ValueError`` is a user's to fix: its message goes to stderr as one line and the exit status is 2, as for an unknown
    option. Any other exception is a defect and keeps its traceback. Ctrl-C and SIGTERM (of Slurm, of Kubernetes) end with status
    130, a second SIGTERM at once. ``default`` gives a whole configuration whose values the options replace.
    """
    make_output_inert()
    end_as_at_ctrl_c()
    try:
        main(parsed(config_type, sys.argv[1:], default=None if default is None else default()))
    except (Exception, KeyboardInterrupt) as error:
        if (
            isinstance(error, KeyboardInterrupt) or is_ending()
        ):  # whatever else failed since, such as a server that ended too
            end_at_once()
            print("interrupted; what was finished is kept", file=sys.stderr)
            sys.exit(130)
        if not isinstance(error, ValueError):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def parsed(config_type: type[Config], arguments: Sequence[str], *, default: Config | None = None) -> Config:
    """The configuration that the arguments give.

    Raises:
        ValueError: a value is outside of its range, values contradict each other, or a type of supervision cannot be switched.
        SystemExit: an option is unknown or no value of its type, which tyro has said on stderr, or help was asked for.
    """
    given: dict[str, Any] = {} if default is None else {"default": default}
    train = getattr(default, "train", None)
    left, off = as_flags(arguments), list[str]()
    if train is not None:
        left, off = without_types(left, there={name for name in _TYPES.values() if getattr(train, name) is not None})
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            # An optional part is as the default has it.
            config = tyro.cli(config_type, config=(tyro.conf.AvoidSubcommands,), args=left, **given)
    except SystemExit as ended:
        # tyro draws a box around what a configuration says of its own values.
        if (problem := _of_a_configuration(ended)) is not None:
            raise problem from None
        sys.stderr.write(said.getvalue())
        raise
    if not off:
        return config
    changed: Any = config
    return replace(changed, train=replace(changed.train, **dict.fromkeys(off)))


def as_flags(arguments: Sequence[str]) -> list[str]:
    """Command line with ``--model.definitions on`` (``off``) as ``--model.definitions`` (``--model.no-definitions``)."""
    flags: list[str] = []
    for argument in arguments:
        prefix, dot, name = flags[-1].rpartition(".") if flags else ("", "", "")
        if argument not in ("on", "off") or name.replace("_", "-") not in _FORMER_SWITCHES:
            flags.append(argument)
        elif argument == "off":
            flags[-1] = f"{prefix}{dot}no-{name}"
    return flags


def without_types(arguments: Sequence[str], *, there: set[str]) -> tuple[list[str], list[str]]:
    """Command line without ``--train.TYPE on`` or ``off``, and the types that are off.

    Args:
        arguments: the command line; other options of a type that is off may be on it.
        there: the types that the recipe trains on.

    Raises:
        ValueError: there is no such value, or the recipe has no settings for a type that is to be on.
    """
    left: list[str] = []
    off: dict[str, bool] = {}  # the last one counts, as for every option
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        flag, equals, value = argument.partition("=")
        name = _TYPES.get(flag.replace("_", "-"))
        if name is None:
            left.append(argument)
            continue
        value = value if equals else (waiting.pop(0) if waiting else "")
        if value not in ("on", "off"):
            raise ValueError(f"{flag} {value}: on or off; its settings are options such as {flag}.batch-size")
        if value == "on" and name not in there:
            raise ValueError(
                f"{flag} on: the recipe has no settings for it; take one that trains on it ({', '.join(sorted(there))}"
                " are on in this one)"
            )
        off[name] = value == "off" and name in there
    return left, [name for name, is_off in off.items() if is_off]


def recipe_argument(*, default: str) -> str:
    """Take the name of a recipe, if there is one, off the front of the command line."""
    return sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else default


def _of_a_configuration(ended: BaseException) -> ValueError | None:
    """The error that a configuration's own check raised, before tyro ended the program for it; None for any other reason."""
    error: BaseException | None = ended
    while error is not None:
        names = {frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)}
        if isinstance(error, ValueError) and "__post_init__" in names:
            return error
        error = error.__context__
    return None
