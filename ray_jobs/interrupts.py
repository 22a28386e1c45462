"""SIGTERM as Ctrl-C: Slurm and Kubernetes end a job with the one, a person with the other, and both keep what was finished."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_is_ending = threading.Event()


def end_as_at_ctrl_c() -> None:
    """Let the first SIGTERM of this process do what Ctrl-C does, whoever handles that by then, and a second one end it at once.

    Ray's and Dagster's own handlers stand in for Ctrl-C's while they work, which this respects. What sets another one for SIGTERM
    (``ray.init``, whose C++ part prints its stack) has to put this one back.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _on_sigterm)


def is_ending() -> bool:
    """Whether a SIGTERM has come: what fails afterwards fails because everything ends."""
    return _is_ending.is_set()


@contextmanager
def ray_train_ends() -> Iterator[None]:
    """Around ``trainer.fit()``, whose own handler of Ctrl-C ends the workers, then this process with status 0, and stays."""
    end_as_at_ctrl_c()  # a build in this process has left Dagster's
    ctrl_c = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, ctrl_c)


def end_at_once() -> None:
    """Let a further SIGTERM or Ctrl-C end this process, which is about to end by itself."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _is_ending.set()
    signal.raise_signal(signal.SIGINT)
