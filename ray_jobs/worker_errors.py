"""Worker errors that no retry repairs: they end a Ray training at once, and come to the driver as what the worker raised."""

from typing import Any

from ray.train import ControllerError, TrainingFailedError, UserCallback


class EndAtUserErrors(UserCallback):
    """Ends the training at a ``ValueError`` or a ``FloatingPointError`` of a worker.

    Ray Train retries whatever a worker raises, up to ``max_failures`` times. A damaged shard or a file that is gone stays so, and
    a training that diverges does so again, since it repeats the same samples. What a callback raises ends the training: Ray
    Train ends all workers, also those that wait for the one that failed.
    """

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise the error of the lowest rank that has one, as a ``ValueError``; other failures are Ray Train's to retry."""
        for _, error in sorted(worker_exceptions.items()):
            if isinstance(error, ValueError | FloatingPointError):
                raise ValueError(str(error))  # of a class that every process can read


def user_error(error: TrainingFailedError) -> ValueError | None:
    """The ``ValueError`` that ended a training, or None where something else did."""
    cause = error.controller_failure if isinstance(error, ControllerError) else None
    return cause if isinstance(cause, ValueError) else None
