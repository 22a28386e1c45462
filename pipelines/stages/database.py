"""What stages share that compute with DuckDB: a connection, and the way back from one column over all shards."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING

import pyarrow as pa

from pipelines.stages.lazy_tables import LazyTables
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


def split_by_table(
    columns: pa.Table, tables: Mapping[str, pa.Table], schema: pa.Schema, *, num_rows: Sequence[int]
) -> Mapping[str, pa.Table]:
    """What a global stage returns: each table with its rows of ``columns``, which replace those of the same names.

    Args:
        columns: a row for every row of ``tables``, one table after the other; ``drop_reason`` is one of its columns.
        tables: as the stage got them; each is asked for when its result is.
        schema: the stage's output schema.
        num_rows: of each table.
    """
    starts = accumulate(num_rows, initial=0)
    parts = [columns.slice(start, length) for start, length in zip(starts, num_rows, strict=False)]
    return LazyTables(
        {name: partial(_replaced, tables, name, part, schema) for name, part in zip(tables, parts, strict=True)}
    )


def _replaced(tables: Mapping[str, pa.Table], name: str, columns: pa.Table, schema: pa.Schema) -> pa.Table:
    table = tables[name]
    rest = table.drop_columns([column for column in columns.column_names if column in table.column_names])
    for column in columns.column_names:
        rest = rest.append_column(column, columns.column(column))
    wanted = with_drop_reason(schema)
    return rest.select(wanted.names).cast(wanted)
