"""How every script here starts: options from a dataclass, user errors as one line."""

import sys
from collections.abc import Callable
from typing import TypeVar

import tyro

Config = TypeVar("Config")


def run_cli(config_type: type[Config], main: Callable[[Config], None]) -> None:
    """Parse the command line into ``config_type`` and call ``main`` with it.

    A ``ValueError`` is a user's to mend: its message goes to stderr as one line and the exit status is 2, as for an unknown
    option. Any other exception is a defect and keeps its traceback.
    """
    config = tyro.cli(config_type)
    try:
        main(config)
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept", file=sys.stderr)
        sys.exit(130)
