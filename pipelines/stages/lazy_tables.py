"""Lazily loaded tables: what is read shard after shard need not be in memory at once."""

from collections.abc import Callable, Iterator, Mapping

import pyarrow as pa


class LazyTables(Mapping[str, pa.Table]):
    """Lazily loaded tables by name, each loaded whenever it is asked for."""

    def __init__(self, makers: Mapping[str, Callable[[], pa.Table]]) -> None:
        self._makers = makers

    def __getitem__(self, name: str) -> pa.Table:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)
