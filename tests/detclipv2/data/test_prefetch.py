"""Batches are prefetched in order; errors come up as they were raised; what is closed leaves nothing behind."""

import itertools
import multiprocessing
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial

import pytest
import torch

from detclipv2.data.prefetch import prefetch_in_processes, prefetch_in_thread
from detclipv2.structures import Batch

Prefetched = Callable[..., Generator[Batch, None, None]]


def _batch(key: str) -> Batch:
    return Batch(
        supervision="detection",
        keys=[key],
        pixels=torch.full((1, 3, 4, 4), 7, dtype=torch.uint8),
        image_sizes_hw=[(4, 4)],
        boxes_xyxy=[torch.tensor([[0.0, 1, 2, 3]])],
        labels=[torch.tensor([0])],
        concepts=[["dog"]],
    )


def _worker(worker: int, *, made: list[str] | None = None, fails_at: int = -1) -> Generator[Batch, None, None]:
    for number in itertools.count():
        if number == fails_at:
            raise FileNotFoundError(f"shard {worker} is gone")
        if made is not None:
            made.append(f"{worker}-{number}")
        yield _batch(f"{worker}-{number}")


def _prefetched(where: str, num_prefetched: int = 2, **options: int) -> Generator[Batch, None, None]:
    if where == "thread":
        return prefetch_in_thread(_worker(0, **options), num_prefetched=num_prefetched)
    return prefetch_in_processes(
        partial(_worker, **options), num_workers=2, first_worker=1, num_prefetched=num_prefetched
    )


def test_a_thread_makes_so_many_prefetched() -> None:
    made: list[str] = []
    with closing(prefetch_in_thread(_worker(0, made=made), num_prefetched=3)) as batches:
        assert next(batches).keys == ["0-0"]
        deadline = time.monotonic() + 20
        while len(made) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert made == ["0-0", "0-1", "0-2", "0-3"]
        assert [next(batches).keys for _ in range(3)] == [["0-1"], ["0-2"], ["0-3"]]


def test_processes_take_turns_from_the_first_worker_on() -> None:
    torch.manual_seed(0)
    drawn = torch.get_rng_state()
    with closing(_prefetched("processes")) as batches:
        found = list(itertools.islice(batches, 5))

    assert [batch.keys for batch in found] == [["1-0"], ["0-0"], ["1-1"], ["0-1"], ["1-2"]]
    assert torch.equal(found[4].pixels, _batch("").pixels)
    assert torch.equal(found[4].boxes_xyxy[0], _batch("").boxes_xyxy[0])
    assert found[4].labels[0].dtype == torch.long
    assert torch.equal(torch.get_rng_state(), drawn), "the network's random numbers are its own"


@pytest.mark.parametrize("where", ["thread", "processes"])
def test_an_error_comes_up_where_its_batch_would_have(where: str) -> None:
    num_good = 2 if where == "thread" else 4
    batches = _prefetched(where, fails_at=2)
    assert len(list(itertools.islice(batches, num_good))) == num_good
    with pytest.raises(FileNotFoundError, match=r"^shard [01] is gone") as raised:
        next(batches)
    assert str(raised.value) == f"shard {0 if where == 'thread' else 1} is gone"
    assert where == "thread" or any("in _worker" in note for note in raised.value.__notes__), "with its trace"
    _assert_nothing_is_left()


@pytest.mark.parametrize("where", ["thread", "processes"])
def test_closing_ends_all(where: str) -> None:
    batches = _prefetched(where)
    next(batches)
    assert _num_helpers() > 0
    batches.close()
    _assert_nothing_is_left()


class ClientError(Exception):
    """Cannot be unpickled, like those of some clients of object stores."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


def _refused(worker: int) -> Generator[Batch, None, None]:
    raise ClientError(403, f"worker {worker}")
    yield


def test_an_error_that_does_not_pass_between_processes_is_told() -> None:
    batches = prefetch_in_processes(_refused, num_workers=1, first_worker=0, num_prefetched=1)
    with pytest.raises(RuntimeError, match="^ClientError: 403: worker 0$"):
        next(batches)


def test_a_killed_process_is_an_error() -> None:
    with closing(_prefetched("processes")) as batches:
        next(batches)
        for process in multiprocessing.active_children():
            process.kill()
        with pytest.raises(RuntimeError, match="^a loader process ended unexpectedly .*out of memory"):
            list(itertools.islice(batches, 20))


def _num_helpers() -> int:
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("loader")]
    return len(threads) + len(multiprocessing.active_children())


def _assert_nothing_is_left() -> None:
    assert _num_helpers() == 0
