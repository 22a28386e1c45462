"""Batches made ahead of the step that takes them: by processes, or by a thread of this one."""

import pickle
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from detclipv2.structures import Batch

Lane = Callable[[int], Generator[Batch, None, None]]


def ahead_in_thread(batches: Generator[Batch, None, None], *, num_ahead: int) -> Generator[Batch, None, None]:
    """The same endless batches, ``num_ahead`` of them made by a thread while the last one is used.

    Closing it ends the thread. An error comes up where its batch would have.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="loader") as thread:
        try:
            waiting = deque(thread.submit(_next, batches) for _ in range(num_ahead))
            while True:
                batch = waiting.popleft().result()
                waiting.append(thread.submit(_next, batches))
                yield batch
        finally:
            thread.shutdown(cancel_futures=True)
            batches.close()


def ahead_in_processes(lane: Lane, *, num_lanes: int, first_lane: int, num_ahead: int) -> Generator[Batch, None, None]:
    """The batches of lanes in turn, each lane made by a process of one thread.

    Closing it ends the processes. An error comes up where its batch would have, as it was raised in the process.

    Args:
        lane: the endless batches of a lane, by its number.
        num_lanes: how many lanes there are.
        first_lane: which one's turn it is.
        num_ahead: batches that each process makes ahead.
    """
    loader = DataLoader(
        _Lanes(lane, num_lanes=num_lanes, first_lane=first_lane),
        batch_size=None,
        num_workers=num_lanes,
        prefetch_factor=num_ahead,
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


class _Lanes(IterableDataset[Batch | Exception]):
    """In process w the batches of the lane whose turn comes after w others: the loader asks its processes in turn."""

    def __init__(self, lane: Lane, *, num_lanes: int, first_lane: int) -> None:
        self._lane, self._num_lanes, self._first_lane = lane, num_lanes, first_lane

    def __iter__(self) -> Iterator[Batch | Exception]:
        worker = get_worker_info()
        assert worker is not None
        try:
            yield from self._lane((self._first_lane + worker.id) % self._num_lanes)
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
