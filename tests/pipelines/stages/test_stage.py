import weakref
from functools import partial

import pyarrow as pa

from pipelines.stages.dedup import Dedup
from pipelines.stages.stage import LazyTables


def test_a_table_is_made_whenever_it_is_asked_for():
    calls = []
    tables = LazyTables(
        {name: partial(lambda name: (calls.append(name), pa.table({"x": [name]}))[1], name) for name in "ab"}
    )

    assert (list(tables), len(tables), calls) == (["a", "b"], 2, [])
    assert tables["b"].to_pydict() == {"x": ["b"]}
    assert [name for name, _ in tables.items()] == ["a", "b"]
    assert calls == ["b", "a", "b"]


def test_a_global_stage_holds_two_whole_tables_at_most(images):
    """The one at hand, and the next one while it is read; both on its way in and on its way out."""
    alive: list[weakref.ref] = []
    most_alive = 0

    def make(name: str) -> pa.Table:
        nonlocal most_alive
        rows = [{"key": f"{name}{i}", "sha256": f"{name}{i}"} for i in range(3)]
        table = images(rows)
        alive[:] = [*filter(lambda reference: reference() is not None, alive), weakref.ref(table)]
        most_alive = max(most_alive, len(alive))
        return table

    results = Dedup(num_threads=1)(LazyTables({name: partial(make, name) for name in "abcd"}))
    assert most_alive == 2
    keys = [key for table in results.values() for key in table["key"].to_pylist()]
    assert keys == [f"{name}{i}" for name in "abcd" for i in range(3)]
    assert most_alive == 2
