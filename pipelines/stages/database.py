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

from pipelines.stages.stage import LazyTables
from schemas.tables import with_drop_reason

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


_BYTES_PER_THREAD = 125 * 2**20  # DuckDB's manual asks for as much, else a sort or a join may not find room to begin


@contextmanager
def connected(
    *, num_threads: int | None, memory_bytes: int | None = None, scratch: Path | None = None
) -> Iterator["DuckDBPyConnection"]:
    """An empty database, which goes with the connection.

    It is in memory or, given ``memory_bytes``, puts what does not fit into so much in ``scratch`` (None: the system's folder).
    With more than one thread rows come in any order: queries number them first and order by that number last. Without
    ``num_threads`` there is one a core that this process may use; fewer where the memory is too little for so many.
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
    """What a global stage with output ``schema`` returns: each table with its rows of ``columns``, made when it is asked for.

    ``columns`` has a row for every row of ``tables``, one table after the other, and ``drop_reason``; its columns replace those
    of the same names.
    """
    wanted = with_drop_reason(schema)

    def replaced(name: str, start: int, length: int) -> pa.Table:
        part, table = columns.slice(start, length), tables[name]
        given = [part[column] if column in part.column_names else table[column] for column in wanted.names]
        return pa.table(given, names=wanted.names).cast(wanted)

    starts = accumulate(num_rows, initial=0)
    return LazyTables(
        {name: partial(replaced, name, *place) for name, *place in zip(tables, starts, num_rows, strict=False)}
    )
