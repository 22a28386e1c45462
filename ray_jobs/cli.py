"""Command line of the scripts: options from a dataclass, user errors as one line."""

import sys
from collections.abc import Callable
from typing import TypeVar

import tyro

Config = TypeVar("Config")


def run_cli(
    config_type: type[Config], main: Callable[[Config], None], *, default: Callable[[], Config] | None = None
) -> None:
    """Parse the command line into ``config_type`` and call ``main`` with it.

    A ``ValueError`` is a user's to fix: its message goes to stderr as one line and the exit status is 2, as for an unknown
    option. Any other exception is a defect and keeps its traceback. ``default`` gives a whole configuration whose values the
    options replace.
    """
    try:
        options = (tyro.conf.AvoidSubcommands,)  # an optional part is as the default has it
        if default is None:
            main(tyro.cli(config_type, config=options))
        else:
            main(tyro.cli(config_type, config=options, default=default()))
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept", file=sys.stderr)
        sys.exit(130)


def recipe_argument(*, default: str) -> str:
    """Take the name of a recipe, if there is one, off the front of the command line."""
    return sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else default
