"""What stages share that compute with DuckDB: a connection, and the way back from one column over all shards."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa

from schemas.tables import with_drop_reason

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


@contextmanager
def connected(*, num_threads: int | None) -> Iterator["DuckDBPyConnection"]:
    """An empty in-memory database.

    With more than one thread rows come in any order: queries number them first and order by that number last.

    Args:
        num_threads: None: one a core that this process may use, for a stage that has the machine to itself.
    """
    import duckdb  # only where it computes: each process that imports it prints its leaks at exit

    with duckdb.connect(config={"threads": num_threads or len(os.sched_getaffinity(0))}) as database:
        database.execute("SET enable_progress_bar = false")
        yield database


def split_by_table(columns: pa.Table, tables: Mapping[str, pa.Table], schema: pa.Schema) -> dict[str, pa.Table]:
    """What a global stage returns: each table with its rows of ``columns``, which replace those of the same names.

    Args:
        columns: a row for every row of ``tables``, one table after the other; ``drop_reason`` is one of its columns.
        tables: as the stage got them.
        schema: the stage's output schema.
    """
    results, start = {}, 0
    for name, table in tables.items():
        part = columns.slice(start, len(table))
        rest = table.drop_columns([column for column in columns.column_names if column in table.column_names])
        for column in columns.column_names:
            rest = rest.append_column(column, part.column(column))
        wanted = with_drop_reason(schema)
        results[name] = rest.select(wanted.names).cast(wanted)
        start += len(table)
    return results
