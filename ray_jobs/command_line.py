"""Command line of the scripts: options from a dataclass, user errors as one line."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro

Config = TypeVar("Config")

# Flags that took "on" or "off" in version 0.1.
_FORMER_SWITCHES = {"definitions", "objectness", "deformable", "gradient-checkpointing", "caption-as-concept"}


def run_cli(
    config_type: type[Config], main: Callable[[Config], None], *, default: Callable[[], Config] | None = None
) -> None:
    """Parse the command line into ``config_type`` and call ``main`` with it.

    A ``ValueError`` is a user's to fix: its message goes to stderr as one line and the exit status is 2, as for an unknown
    option. Any other exception is a defect and keeps its traceback. ``default`` gives a whole configuration whose values the
    options replace.
    """
    try:
        given: dict[str, Any] = {} if default is None else {"default": default()}
        # An optional part is as the default has it.
        main(tyro.cli(config_type, config=(tyro.conf.AvoidSubcommands,), args=as_flags(sys.argv[1:]), **given))
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept", file=sys.stderr)
        sys.exit(130)


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


def recipe_argument(*, default: str) -> str:
    """Take the name of a recipe, if there is one, off the front of the command line."""
    return sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else default
