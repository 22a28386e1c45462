"""A whole build in an object store: built, killed, resumed, skipped, and read by training."""

import itertools
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from upath import UPath

from detclipv2.config import SupervisionConfig
from detclipv2.data.loader import Stream
from detclipv2.data.tar_shards import Shard
from pipelines.inspect.built_dataset import BuiltDataset, open_dataset
from pipelines.storage import PublishedTable, verify_content
from schemas.manifest import Manifest

REPOSITORY = Path(__file__).resolve().parents[3]


def command(root: object) -> list[str]:
    return [sys.executable, "ray_jobs/build_dataset.py", "--scale", "tiny", "--root", str(root)]


def published(root: UPath) -> list[PublishedTable]:
    manifests = [path for path in root.fs.find(root.path) if path.count("/") == root.path.count("/") + 3]
    folders = [UPath(f"s3://{path}").parent for path in manifests if path.endswith("/MANIFEST.json")]
    return [
        PublishedTable(folder=f, manifest=Manifest.model_validate_json((f / "MANIFEST.json").read_text()))
        for f in folders
        if f.parent.parent.name != "datasets" and f.parent.name != "datasets"
    ]


def batches(dataset: BuiltDataset, supervision: str) -> list[list[str]]:
    split = dataset.manifest.supervisions[supervision]
    stream = Stream(
        supervision=supervision,
        shards=[Shard(url=str(dataset.root / entry.path), num_samples=entry.num_rows) for entry in split.shards],
        config=SupervisionConfig(batch_size=8, image_size=64, num_concepts=8),
        vocabulary=split.vocabulary,
        seed=0,
        rank=0,
        world_size=1,
    )
    return [batch.keys for batch in itertools.islice(stream.batches(), 12)]


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_built_killed_resumed_skipped_and_read(
    bucket: UPath, subprocess_environment: dict[str, str], tmp_path: Path
) -> None:
    root = bucket / "data"

    def build(where: object) -> str:
        done = subprocess.run(
            command(where), cwd=REPOSITORY, env=subprocess_environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    process = subprocess.Popen(
        command(root), cwd=REPOSITORY, env=subprocess_environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    while not any(path.endswith("/images.tar") for path in root.fs.find(root.path)):
        assert process.poll() is None and time.monotonic() < deadline, "no upload was seen"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = published(root)
    assert before and all(verify_content(table) is None for table in before)

    assert "tables computed" in build(root)
    assert "nothing to do: everything is up to date" in build(root)
    remote = open_dataset(f"{root}/datasets/tiny")
    assert all(verify_content(table) is None for table in published(root))
    build(tmp_path)
    local = open_dataset(tmp_path / "datasets" / "tiny")
    assert remote.manifest == local.manifest
    for supervision in local.manifest.supervisions:
        assert batches(remote, supervision) == batches(local, supervision)
