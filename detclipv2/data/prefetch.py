"""Batch prefetching: by worker processes, or by a thread of this process."""

import pickle
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from detclipv2.structures import Batch

WorkerBatches = Callable[[int], Generator[Batch, None, None]]


def prefetch_in_thread(batches: Generator[Batch, None, None], *, num_prefetched: int) -> Generator[Batch, None, None]:
    """The same endless batches, ``num_prefetched`` of them prefetched by a thread while the last one is used.

    Closing it ends the thread. An error comes up where its batch would have.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="loader") as thread:
        try:
            waiting = deque(thread.submit(_next, batches) for _ in range(num_prefetched))
            while True:
                batch = waiting.popleft().result()
                waiting.append(thread.submit(_next, batches))
                yield batch
        finally:
            thread.shutdown(cancel_futures=True)
            batches.close()


def prefetch_in_processes(
    worker: WorkerBatches, *, num_workers: int, first_worker: int, num_prefetched: int
) -> Generator[Batch, None, None]:
    """The batches of loader workers in turn; each worker is a process of one thread.

    Closing it ends the processes. An error comes up where its batch would have, as it was raised in the process.

    Args:
        worker: the endless batches of a worker, by its number.
        num_workers: number of workers.
        first_worker: which one's turn it is.
        num_prefetched: batches that each worker prefetches.
    """
    loader = DataLoader(
        _WorkerDataset(worker, num_workers=num_workers, first_worker=first_worker),
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=num_prefetched,
        pin_memory=torch.cuda.is_available(),
        collate_fn=_unchanged,
        generator=torch.Generator(),  # the global one is the network's; nothing here depends on either
    )
    batches = iter(loader)
    try:
        while True:
            batch = _received(batches)
            if isinstance(batch, Exception):
                raise batch
            yield batch
    finally:
        # PyTorch has no public way to end the processes before the iterator is gone.
        batches._shutdown_workers()  # type: ignore[attr-defined]


class _WorkerDataset(IterableDataset[Batch | Exception]):
    """In process w the batches of the worker whose turn comes after w others: the loader asks its processes in turn."""

    def __init__(self, worker: WorkerBatches, *, num_workers: int, first_worker: int) -> None:
        self._worker, self._num_workers, self._first_worker = worker, num_workers, first_worker

    def __iter__(self) -> Iterator[Batch | Exception]:
        worker = get_worker_info()
        assert worker is not None
        try:
            yield from self._worker((self._first_worker + worker.id) % self._num_workers)
        except Exception as error:
            error.add_note(traceback.format_exc())  # the trace does not pass between processes, notes do
            yield _portable(error)


def _received(batches: Iterator[Batch | Exception]) -> Batch | Exception:
    try:
        return next(batches)
    except (RuntimeError, OSError, EOFError) as error:
        # What a process itself raised comes as a value. A dead one shows as this or that, by how far its last message got.
        raise RuntimeError(
            f"a loader process ended unexpectedly ({error or type(error).__name__}): out of memory? Try fewer loader_workers"
            " or prefetch_batches"
        ) from error


def _next(batches: Generator[Batch, None, None]) -> Batch:
    batch = next(batches)
    return batch.pin_memory() if torch.cuda.is_available() else batch


def _portable(error: Exception) -> Exception:
    """The error, or what it says where it does not pass between processes: the training would wait for it for ever."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever the constructor of another's error does
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _unchanged(batch: Any) -> Any:
    return batch
