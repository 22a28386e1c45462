"""Subprocesses that benchmarks measure or kill: their environment, memory and CPU time, interleaved rounds, killed drivers."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

import psutil

T = TypeVar("T")
Name = TypeVar("Name", bound=str)
ROOT = Path(__file__).parents[1]
SECONDS_BETWEEN_SAMPLES = 0.05
LOG_TAIL_CHARS = 4000


def job_process(**environment: str) -> dict[str, Any]:
    """Arguments of `subprocess.run`: the repository's root, one thread, nothing of a cluster or a tracker of the caller.

    Args:
        environment: variables to set.
    """
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return {"cwd": ROOT, "env": inherited | own | environment}


def build_tiny(root: Path) -> None:
    """Build the emoji scenes at scale tiny."""
    command = [sys.executable, "ray_jobs/build_dataset.py", "--scale", "tiny", "--root", str(root)]
    subprocess.run(command, **job_process(), check=True, stdout=subprocess.DEVNULL)


def run_script(*command: str) -> str:
    """Standard output of a Python script in a process of its own, with one thread; its errors go to the terminal."""
    run = subprocess.run([sys.executable, *command], **job_process(), stdout=subprocess.PIPE, check=True, text=True)
    return run.stdout


def interleaved(ways: Mapping[Name, Callable[[], T]], *, rounds: int, warm_up_rounds: int = 0) -> dict[Name, list[T]]:
    """Results of each way, round by round; the ways take turns, so that other load of the machine slows all alike.

    Args:
        ways: what to call, by name.
        rounds: calls of each whose results count.
        warm_up_rounds: calls of each before, whose results do not count.
    """
    results: dict[Name, list[T]] = {name: [] for name in ways}
    for number in range(warm_up_rounds + rounds):
        for name, way in ways.items():
            result = way()
            if number >= warm_up_rounds:
                results[name].append(result)
    return results


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time that this process spends: other work on the machine disturbs it least."""
    started = time.process_time()
    work()
    return time.process_time() - started


def memory_bytes(field: Literal["VmRSS", "VmHWM"]) -> int:
    """Resident memory of this process now (VmRSS), or at its peak (VmHWM); Linux only.

    The peak that getrusage tells will not do: it is not reset when a program is started, so it may be the parent's.
    """
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split(f"{field}:")[1].split()[0])


def resident_bytes(process: psutil.Process) -> int:
    """Resident memory of a process; 0 where it has ended."""
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def resident_tree_bytes(process: psutil.Process) -> int:
    """Resident memory of a process and its descendants together; shared pages count for each.

    Raises:
        psutil.NoSuchProcess: it has ended.
    """
    return resident_bytes(process) + sum(map(resident_bytes, process.children(recursive=True)))


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """The peak so far, in bytes, of the resident memory of this process and its descendants, as a list of one."""
    peak_bytes, is_over = [0], threading.Event()

    def watch() -> None:
        process = psutil.Process()
        while not is_over.wait(SECONDS_BETWEEN_SAMPLES):
            peak_bytes[0] = max(peak_bytes[0], resident_tree_bytes(process))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak_bytes
    finally:
        is_over.set()
        thread.join()


def command_line(process: psutil.Process) -> str:
    """What a process was started as, or calls itself now.

    Raises:
        psutil.Error: it has ended.
    """
    return " ".join(process.cmdline())


def is_raylet(process: psutil.Process) -> bool:
    """Whether this is Ray's daemon of a node."""
    return process.name() == "raylet"


class KilledDriver:
    """A command that is killed and run again until it ends well.

    Attributes:
        num_runs: starts of the command.
        errors: ends of the logs of runs that failed although nothing of them had been killed.
        was_killed: whether something of the current run was killed, so that it may fail.
        started_s: Unix time of the newest start.
    """

    def __init__(self, command: Sequence[str], *, log: Path, process: Mapping[str, Any] | None = None) -> None:
        """Start nothing yet.

        Args:
            command: program and arguments.
            log: file that the output of all runs is appended to.
            process: further arguments of `subprocess.Popen`; those of `job_process` unless given.
        """
        self.num_runs = 0
        self.errors: list[str] = []
        self.was_killed = False
        self.started_s = 0.0
        self._command = list(command)
        self._log = log
        self._process = dict(job_process() if process is None else process)
        self._popen: subprocess.Popen[bytes] | None = None
        self._descendants: list[psutil.Process] = []  # of all runs

    @property
    def process(self) -> psutil.Process:
        """The driver of the current run.

        Raises:
            psutil.NoSuchProcess: it has ended.
        """
        assert self._popen is not None
        return psutil.Process(self._popen.pid)

    def start(self) -> None:
        """Run the command in a session of its own."""
        self.note_failure()
        with self._log.open("ab") as log:
            self._popen = subprocess.Popen(
                self._command, stdout=log, stderr=log, start_new_session=True, **self._process
            )
        self.started_s = time.time()
        self.num_runs += 1
        self.was_killed = False

    def is_running(self) -> bool:
        """Whether the driver of the current run lives."""
        return self._popen is not None and self._popen.poll() is None

    def succeeded(self) -> bool:
        """Whether the last run ended with status 0."""
        return self._popen is not None and self._popen.poll() == 0

    def note_failure(self) -> None:
        """Enter an error if the last run failed although nothing of it had been killed."""
        if self._popen is not None and self._popen.poll() not in (None, 0) and not self.was_killed:
            self.errors.append(self.log_tail())

    def wait(self, timeout_s: float, *, has_to_end: bool) -> None:
        """Until the run ends; after ``timeout_s`` end its driver, which is an error where ``has_to_end``."""
        assert self._popen is not None
        self.remember_descendants()
        try:
            self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            if has_to_end:
                self.errors.append(f"a run did not end within {timeout_s:.0f} s: {self.log_tail()}")
            self._popen.kill()
            self._popen.wait()
        self.note_failure()

    def descendants(self, is_wanted: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
        """Processes below the driver for which ``is_wanted`` is true; one that ends meanwhile is left out."""
        found = []
        for process in self.process.children(recursive=True):
            with suppress(psutil.Error):
                found += [process] if is_wanted(process) else []
        return found

    def remember_descendants(self) -> None:
        """Note the processes below the driver for `end_descendants`: nobody finds them once it is gone."""
        with suppress(psutil.NoSuchProcess):
            self._descendants += self.process.children(recursive=True)

    def end_descendants(self) -> None:
        """Kill what the runs have left running."""
        for process in self._descendants:
            with suppress(psutil.NoSuchProcess):
                process.kill()  # psutil compares start times: another process with the same id is safe
        psutil.wait_procs(self._descendants, timeout=30)
        self._descendants = []

    def log_tail(self) -> str:
        """The end of what the runs wrote."""
        return self._log.read_text()[-LOG_TAIL_CHARS:]
