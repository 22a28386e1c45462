"""Ray cluster: join the one that runs, or start one on this machine.

A cluster that is started here differs from Ray's defaults:

- **Loopback.** Its servers listen on 127.0.0.1; Ray's listen on all interfaces, whatever the node's address.
- **Token.** A random one for this cluster alone, unless the environment names one; Ray would leave one in the home folder.
- **Scheduling class.** This process and all of Ray's processes that inherit from it run as ``SCHED_BATCH``.
- **Object store.** `OBJECT_STORE_BYTES` in place of 30 % of the memory.
- No usage statistics, no metrics, no dashboard, no watcher for preemptions; one OpenMP thread a worker.
"""

import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# Rows are an index and a word, so the object store needs next to nothing; Ray would set aside 30 % of the memory.
OBJECT_STORE_BYTES = 256 * 2**20
# Whether nodes on other machines may join; 0 is the default on Windows and macOS.
_CLUSTER_ELSEWHERE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def keep_private(environment: MutableMapping[str, str]) -> None:
    """Let a Ray head that is started with this environment listen on loopback alone, and ask for a token of its own."""
    # The only setting of Ray on Linux under which the GCS, the raylet, workers and agents bind to 127.0.0.1 (2.60).
    environment[_CLUSTER_ELSEWHERE] = "0"
    environment["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray would leave a token in ~/.ray, and every later `ray start` would then ask each `ray job submit` for it.
    if not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & environment.keys():
        environment["RAY_AUTH_MODE"] = "token"
        environment["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


# Ray reads whether it asks for a token when it is imported: whoever uses this module imports it before Ray.
if "RAY_ADDRESS" not in os.environ and "ray" not in sys.modules:
    keep_private(os.environ)


def connect() -> str | None:
    """Join the cluster that RAY_ADDRESS names (a submitted job has it), else start one on this machine, once.

    Returns:
        Address of its dashboard, where this call has joined a cluster that has one.
    """
    import ray

    if ray.is_initialized():
        return None
    if "RAY_ADDRESS" in os.environ:
        with _own_sigterm():
            return ray.init(log_to_driver=False, logging_level=logging.WARNING).dashboard_url or None
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Nobody reads this cluster's metrics, and nobody takes away one machine of one: that saves processes and a barrier.
    os.environ.setdefault("RAY_enable_metrics_collection", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    if hasattr(os, "SCHED_BATCH"):
        # Ray's processes wake a thousand times a second. What they inherit here lets none interrupt another in its work.
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    import_path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    with _own_sigterm():
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
            object_store_memory=OBJECT_STORE_BYTES,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", "PYTHONPATH": import_path}},
        )
    return None


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's handler of SIGTERM: Ray's ends the process with status 15, and its C++ part prints a stack."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as error:  # it came meanwhile, to Ray's
        raise KeyboardInterrupt from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
