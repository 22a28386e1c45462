"""Stage interface: what computes a table, without what runs it."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pyarrow as pa


class StageIdentity(Protocol):
    """What names a stage and decides whether a table is up to date.

    ``version`` is bumped by hand when behaviour changes. ``config`` is everything that the output depends on besides the input
    and the version (model names and versions included), as JSON values. The returned table has ``output_schema`` plus
    ``drop_reason`` and as many rows as the input: a stage drops a row by giving its reason, a slug, never by leaving it out.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    input_schema: ClassVar[pa.Schema]
    output_schema: ClassVar[pa.Schema]

    @property
    def config(self) -> dict[str, Any]: ...


class Stage(StageIdentity, Protocol):
    """A table in, a table out; no I/O beyond its tool."""

    def __call__(self, table: pa.Table) -> pa.Table: ...


class GlobalStage(StageIdentity, Protocol):
    """A stage whose verdict on a row depends on the rows of all shards.

    It gets the kept table of every shard by the shard's name, and gives a table for each. Tables of both kinds may be made
    when they are asked for (`LazyTables`): of each a stage keeps only the columns that it
    needs. The order of ``tables`` is the order of age: a new shard comes last, and among equals the older one wins, so that
    growth disturbs the past as little as it can.
    """

    def __call__(self, tables: Mapping[str, pa.Table], *, scratch: Path | None = None) -> Mapping[str, pa.Table]:
        """For every shard its table with ``drop_reason``, in the order of its rows.

        What does not fit into memory goes to the existing folder ``scratch`` (None: the system's), where nothing stays.
        """
        ...


class LazyTables(Mapping[str, pa.Table]):
    """Lazily loaded tables by name, each loaded whenever it is asked for, so that they need not be in memory at once."""

    def __init__(self, makers: Mapping[str, Callable[[], pa.Table]]) -> None:
        self._makers = makers

    def __getitem__(self, name: str) -> pa.Table:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)
