"""DuckDB connections of stages, and the split of a global DuckDB result back into shards."""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from pipelines.stages.lazy_tables import LazyTables
from schemas.tables import with_drop_reason

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


_BYTES_PER_THREAD = 125 * 2**20  # DuckDB's manual asks for as much, else a sort or a join may not find room to begin


@contextmanager
def connected(
    *, num_threads: int | None, memory_bytes: int | None = None, scratch: Path | None = None
) -> Iterator["DuckDBPyConnection"]:
    """An empty database: in memory, or in a file with a limit on the memory, which goes with the connection.

    With more than one thread rows come in any order: queries number them first and order by that number last.

    Args:
        num_threads: None: one a core that this process may use, for a stage that has the machine to itself; fewer where the
            memory is too little for so many.
        memory_bytes: what does not fit into so much is put on the disk. None: everything stays in memory.
        scratch: an existing folder for that; None: the system's for temporary files.
    """
    import duckdb  # only where it computes: each process that imports it prints its leaks at exit

    threads = num_threads or len(os.sched_getaffinity(0))
    if memory_bytes is not None:
        threads = max(1, min(threads, memory_bytes // _BYTES_PER_THREAD))
    settings: dict[str, str | bool | int | float | list[str]] = {"threads": threads}
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".database-") as folder:
        if memory_bytes is not None:
            settings |= {"memory_limit": f"{memory_bytes >> 10}KiB", "temp_directory": f"{folder}/spilled"}
        place = ":memory:" if memory_bytes is None else f"{folder}/tables"
        with duckdb.connect(place, config=settings) as database:
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
