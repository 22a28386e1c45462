"""Two Ray nodes, each a raylet with an address of its own, train together; one is lost, or taken away with notice."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from mlflow.exceptions import MlflowException

from ray_jobs.hooks import STEPS_BETWEEN_NOTICES
from ray_jobs.run_storage import RunStorage
from tests.ray_jobs.conftest import ROOT, TINY_OPTIONS, job_environment
from tests.ray_jobs.test_pretrain import _free_port, _wait_for, logged_steps, only_run

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]
RAY = str(Path(sys.executable).parent / "ray")
NUM_STEPS = 300
OPTIONS = (
    *TINY_OPTIONS,
    *("--train.num-steps", str(NUM_STEPS), "--num-workers", "2", "--min-workers", "1", "--name", "two-nodes"),
)


class Cluster:
    """A head and a second node, with one CPU each."""

    def __init__(self) -> None:
        self.address = f"127.0.0.1:{_free_port()}"
        port = self.address.partition(":")[2]
        head = ("--head", "--port", port, "--include-dashboard", "false", "--temp-dir", f"/tmp/ray-{os.getpid()}")
        self.head = self._start("127.0.0.1", *head)
        _wait_for(lambda: self._nodes() == 1, "the head does not start")
        self.second = self._start("127.0.0.2", "--address", self.address)
        _wait_for(lambda: self._nodes() == 2, "the second node does not join")

    def _start(self, ip: str, *options: str) -> subprocess.Popen[bytes]:
        command = (RAY, "start", "--block", "--disable-usage-stats", "--num-cpus", "1", "--node-ip-address", ip)
        return subprocess.Popen(
            [*command, "--dashboard-agent-listen-port", str(_free_port()), *options],
            cwd=ROOT,
            env=job_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _nodes(self) -> int:
        return len([node for node in self.state() if node["state"] == "ALIVE"])

    def state(self) -> list[dict[str, str]]:
        """The nodes as the head knows them."""
        script = (
            "import json, ray; from ray._private.state import state;"
            f"ray.init('{self.address}', log_to_driver=False, logging_level='ERROR');"
            "print(json.dumps([{'id': n['NodeID'], 'state': 'ALIVE' if n['Alive'] else 'DEAD',"
            " 'ip': n['NodeManagerAddress']} for n in ray.nodes()]))"
        )
        asked = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, env=job_environment(), capture_output=True, text=True
        )
        nodes: list[dict[str, str]] = json.loads(asked.stdout.splitlines()[-1]) if asked.returncode == 0 else []
        return nodes

    def train(self, data: Path, outputs: Path, *options: str) -> subprocess.Popen[str]:
        """The job, as its driver runs on a cluster."""
        return subprocess.Popen(
            [
                sys.executable,
                "ray_jobs/pretrain.py",
                "--data",
                str(data),
                "--outputs",
                str(outputs),
                *OPTIONS,
                *options,
            ],
            cwd=ROOT,
            env=job_environment() | {"RAY_ADDRESS": self.address},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def lose_second(self) -> None:
        """A node that is gone from one moment to the next, with all that ran on it."""
        for process in [*psutil.Process(self.second.pid).children(recursive=True), psutil.Process(self.second.pid)]:
            process.kill()
        self.second.wait()

    def close(self) -> None:
        """End both nodes."""
        for node in (self.second, self.head):
            if node.poll() is None:
                os.killpg(node.pid, signal.SIGTERM)
                try:
                    node.wait(timeout=60)
                except subprocess.TimeoutExpired:
                    os.killpg(node.pid, signal.SIGKILL)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    nodes = Cluster()
    yield nodes
    nodes.close()


def workers_of(node: subprocess.Popen[bytes]) -> int:
    commands = []
    for process in psutil.Process(node.pid).children(recursive=True):
        try:
            commands.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return sum("RayTrainWorker" in command for command in commands)


def storage_of(outputs: Path) -> RunStorage:
    return RunStorage(root=outputs / "runs", name="two-nodes")


def finish(job: subprocess.Popen[str], outputs: Path) -> list[tuple[int, int]]:
    """World size and steps of each segment of the finished run, whose metrics are whole."""
    log, _ = job.communicate(timeout=300)
    assert job.returncode == 0, log
    client, run = only_run(outputs)
    assert run.info.status == "FINISHED"
    assert logged_steps(client, run, "grad_norm") == list(range(2, NUM_STEPS + 1, 2)), "every step once, none missing"
    storage = storage_of(outputs)
    step = storage.finished_step()
    assert step == NUM_STEPS
    return [(s.world_size, sum(s.num_batches.values())) for s in storage.load(step).segments]


def test_the_loss_of_a_node(cluster: Cluster, tiny_data: Path, tmp_path: Path) -> None:
    job = cluster.train(tiny_data, tmp_path)
    _wait_for(lambda: len(storage_of(tmp_path).steps()) >= 2, "no checkpoint")
    assert workers_of(cluster.head) == 1
    assert workers_of(cluster.second) == 1

    cluster.lose_second()

    (first, second) = finish(job, tmp_path)
    assert first[0] == 2
    assert second[0] == 1
    assert first[1] % 3 == 0, "a checkpoint of the loop's own"
    assert first[1] + second[1] == NUM_STEPS


def test_a_node_that_is_taken_away_with_notice(cluster: Cluster, tiny_data: Path, tmp_path: Path) -> None:
    (node,) = [node["id"] for node in cluster.state() if node["ip"] == "127.0.0.2"]
    # The answer to the notice is the only checkpoint before the last.
    job = cluster.train(tiny_data, tmp_path, "--train.checkpoint-every", "1000")
    _wait_for(lambda: num_logged(tmp_path) >= 5, "no steps are logged")
    assert storage_of(tmp_path).steps() == []

    drain = (RAY, "drain-node", "--address", cluster.address, "--node-id", node)
    reason = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a test")
    subprocess.run([*drain, *reason, "--deadline-remaining-seconds", "15"], check=True, cwd=ROOT, env=job_environment())

    (first, second) = finish(job, tmp_path)
    assert (first[0], second[0]) == (2, 1)
    assert first[1] % STEPS_BETWEEN_NOTICES == 0
    assert first[1] + second[1] == NUM_STEPS


def num_logged(outputs: Path) -> int:
    """Logged entries of a metric of a run that may not have begun."""
    try:
        client, run = only_run(outputs)
    except (AssertionError, ValueError, MlflowException):
        return 0
    return len(logged_steps(client, run, "grad_norm"))
