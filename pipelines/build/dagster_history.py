"""Dagster's history of builds: SQLite files, set aside where they are damaged, so that a build goes on with a new history."""

import contextlib
import itertools
import sqlite3
import sys
from pathlib import Path

from schemas.paths import is_regular


def set_damaged_aside(home: Path) -> None:
    """Rename a home with a damaged database; a line on stderr says so. The history is for people: no build depends on it."""
    damaged = next((path for path in sorted(home.rglob("*.db")) if not _is_whole(path)), None)
    if damaged is None:
        return
    kept = next(path for i in itertools.count(1) if not (path := home.with_name(f"{home.name}-damaged-{i}")).exists())
    home.rename(kept)
    print(f"{damaged} is damaged: the history of builds begins anew, the one before is kept in {kept}", file=sys.stderr)


def _is_whole(path: Path) -> bool:
    """Whether SQLite can read its tables; one that another process is writing to is whole."""
    if not is_regular(path):
        return False
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            return database.execute("PRAGMA quick_check(1)").fetchall() == [("ok",)]
    except sqlite3.OperationalError:  # locked, or not to be opened: Dagster says why
        return True
    except sqlite3.DatabaseError:
        return False
