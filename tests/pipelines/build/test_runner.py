"""Which jobs run, for which reason; what a failure leaves behind."""

import dataclasses
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
import ray
from rich.console import Console

from pipelines.build.asset_rates import read_measured
from pipelines.build.due import summarize_reasons
from pipelines.build.job import Job
from pipelines.build.runner import AssetRun, Runner, Where
from pipelines.storage import KEPT, WHOLE, TableFile, Written, write_split

SCHEMA = pa.schema([pa.field("key", pa.string(), nullable=False)])


def write_one(key: str, folder: Path) -> Written:
    table = pa.table([pa.array([key]), pa.array([None], pa.string())], names=["key", "drop_reason"])
    return write_split(table, folder, schema=SCHEMA, where="test")


def write_whole(shards: Sequence[str], folder: Path) -> Written:
    for shard in shards:
        write_one(shard, folder / shard)
    return Written(rows_in=len(shards), rows_kept=len(shards))


def refuse(folder: Path) -> Written:
    raise ValueError(f"{folder.name.split('-')[0]} is no image")


def crash(folder: Path) -> Written:
    raise KeyError("phash")


def die(folder: Path) -> Written:
    os._exit(1)


def parent(name: str, content: str) -> TableFile:
    return TableFile(name=name, path=Path("x"), sha256=content, num_rows=1)


def job(shard: str, **changes: object) -> Job:
    usual = Job(
        stage="filtered",
        version=1,
        shard=shard,
        config={"min_side_px": 200},
        inputs=(parent(f"images/{shard}/kept.parquet", "1"), parent(f"urls/{shard}/kept.parquet", "1")),
        num_rows=1,
        work=partial(write_one, shard),
    )
    return dataclasses.replace(usual, **changes)


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def runner(tmp_path: Path, output: io.StringIO) -> Runner:
    return Runner(tmp_path, dataset="demo", console=Console(file=output, width=200))


def run(runner: Runner, *jobs: Job) -> AssetRun:
    return runner.run("filtered", jobs, where="here")


def test_a_second_run_does_nothing_and_says_so(runner: Runner, output: io.StringIO) -> None:
    assert run(runner, job("a"), job("b")).reasons == ["new", "new"]
    assert run(runner, job("a"), job("b")).reasons == []

    first, second = output.getvalue().splitlines()
    assert first.startswith("filtered           ran 2 of 2 shards in ") and first.endswith(" s: 2 new")
    assert second == "filtered           up to date: 2 of 2 shards verified"


def test_growing_runs_the_new_shards_alone(runner: Runner) -> None:
    run(runner, job("a"))

    result = run(runner, job("a"), job("b"))

    assert result.reasons == ["new"]
    assert list(result.tables) == ["a", "b"]
    assert " ran 1 of 2 shards in " in result.line


INPUTS = job("a").inputs


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "stage version 1 -> 2"),
        ({"config": {"min_side_px": 100}}, "config changed: min_side_px 200 -> 100"),
        ({"config": {"min_side_px": 200, "max_words": 64}}, "config changed: max_words null -> 64"),
        ({"config": {"min_side_px": "x" * 40}}, 'config changed: min_side_px 200 -> "xxxxxxxxxxxxxxxxxxxx...'),
        ({"config": {"min_side_px": 9, "schema": "images/2"}}, "schema without a version -> images/2"),
        ({"inputs": (parent("images/a/kept.parquet", "2"), INPUTS[1])}, "parent changed: images 1 changed"),
        ({"inputs": INPUTS[:1]}, "parent changed: urls 1 gone"),
        ({"inputs": (*INPUTS, parent("images/b/kept.parquet", "3"))}, "parent changed: images 1 new"),
    ],
)
def test_the_reason_is_named(change: dict[str, object], reason: str, runner: Runner) -> None:
    run(runner, job("a"))

    assert run(runner, job("a", **change)).reasons == [reason]


def test_another_schema_is_a_reason_of_its_own(runner: Runner) -> None:
    run(runner, job("a", config={"min_side_px": 200, "schema": "images/1"}))

    changed = job("a", config={"min_side_px": 100, "schema": "images/2"})
    assert run(runner, changed).reasons == ["schema images/1 -> images/2"]


def test_what_ran_is_measured_and_what_failed_is_not(runner: Runner) -> None:
    run(runner, job("a"), job("b"))
    first = read_measured(runner.root)["filtered"]
    assert (first.num_rows, first.seconds > 0) == (2, True)
    assert first.num_bytes == sum(path.stat().st_size for path in runner.root.rglob("*.parquet"))

    run(runner, job("a"), job("b"))
    with pytest.raises(ValueError, match="filtered failed on 1 of 3 shards"):
        run(runner, job("a"), job("b"), job("c", work=refuse))
    assert read_measured(runner.root)["filtered"] == first

    run(runner, job("a"), job("d"))
    assert read_measured(runner.root)["filtered"].num_rows == 3


def test_going_back_to_earlier_settings_costs_nothing(runner: Runner) -> None:
    run(runner, job("a"))
    run(runner, job("a", version=2))

    assert run(runner, job("a")).reasons == []


def test_a_damaged_and_a_removed_table_run_again(runner: Runner) -> None:
    tables = run(runner, job("a"), job("b"), job("c")).tables
    (tables["a"].folder / KEPT).write_bytes(b"")
    (tables["b"].folder / "MANIFEST.json").unlink()

    reasons = run(runner, job("a"), job("b"), job("c")).reasons

    assert reasons[0].startswith("kept.parquet has 0 bytes, not ")
    assert reasons[1:] == ["unfinished or gone"]
    assert run(runner, job("a"), job("b"), job("c")).reasons == []


def test_another_dataset_shares_the_tables(runner: Runner) -> None:
    run(runner, job("a"))

    assert Runner(runner.root, dataset="demo_large").run("filtered", [job("a")], where="here").reasons == []


def test_a_user_error_names_the_shard_and_keeps_the_others(runner: Runner) -> None:
    message = r"filtered failed on 1 of 3 shards, first b: \.tmp is no image; what is finished is kept"
    with pytest.raises(ValueError, match=message):
        run(runner, job("a"), job("b", work=refuse), job("c"))

    result = run(runner, job("a"), job("b"), job("c"))
    assert result.reasons == ["unfinished or gone"]


def test_a_defect_keeps_its_traceback(runner: Runner) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)first b: KeyError: 'phash'.*in crash"):
        run(runner, job("a", work=refuse), job("b", work=crash))


def test_an_incomplete_asset_cannot_be_read(runner: Runner) -> None:
    with pytest.raises(ValueError, match="demo: filtered is not complete: build it first"):
        runner.tables("filtered")
    with pytest.raises(ValueError, match="filtered failed on 1 of 2 shards"):
        run(runner, job("a"), job("b", work=refuse))
    with pytest.raises(ValueError, match=r"demo: filtered is not complete \(b\): build it first"):
        runner.tables("filtered")


def test_what_the_jobs_need_is_there_only_while_they_run(runner: Runner) -> None:
    seen: list[list[str]] = []

    @contextmanager
    def around(due: list[Job]) -> Iterator[list[Job]]:
        seen.append([one.shard for one in due])
        yield due

    run(runner, job("a"))
    runner.run("filtered", [job("a"), job("b")], where="here", around=around)
    runner.run("filtered", [job("a"), job("b")], where="here", around=around)

    assert seen == [["b"]]


def test_a_table_over_all_shards_says_how_many(runner: Runner) -> None:
    whole = job(WHOLE, work=partial(write_whole, ["a", "b", "c"]))

    assert " ran over all 3 shards in " in run(runner, whole).line
    assert run(runner, whole).line.endswith(" up to date: 3 of 3 shards verified")


def test_reasons_are_counted() -> None:
    assert summarize_reasons(["new", "new"]) == "2 new"
    assert summarize_reasons(["stage version 1 -> 2"] * 8) == "stage version 1 -> 2"
    assert summarize_reasons(["new", "b is missing", "new"]) == "2 new; 1 b is missing"


@pytest.fixture
def ray_ends() -> Iterator[None]:
    yield
    ray.shutdown()


@pytest.mark.integration
@pytest.mark.parametrize("where", ["ray", pytest.param("actors", marks=pytest.mark.slow)])
def test_on_ray_a_dying_worker_costs_its_own_shard(
    where: Where, runner: Runner, ray_ends: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.build.execute.MIN_JOBS_PER_ACTOR", 1)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a worker cannot import the tests
    jobs = [job("a"), job("b", work=die), job("c", work=refuse), job("d")]

    with pytest.raises(
        ValueError, match=r"failed on 2 of 4 shards, first b: its task was lost: (WorkerCrashed|ActorDied)Error"
    ):
        runner.run("filtered", jobs, where=where)

    result = runner.run("filtered", [job(shard) for shard in "abcd"], where=where)
    assert result.reasons == ["unfinished or gone"] * 2
    assert [table.manifest.rows_kept for table in result.tables.values()] == [1, 1, 1, 1]
