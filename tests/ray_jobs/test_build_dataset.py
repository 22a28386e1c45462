"""The data pipeline from the command line: built, skipped, grown, killed and resumed."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from PIL import Image
from rich.console import Console

from benchmarks.kill_build import kill_builds
from pipelines.build.build_config import BuildConfig
from pipelines.build.checks import Limits
from pipelines.build.dagster_assets import build
from pipelines.build.scales import SCALES
from pipelines.sources.small_web import SmallWeb
from pipelines.storage.tars import read_tar
from ray_jobs.build_dataset import Options, funnel_table, run
from ray_jobs.command_line import run_cli
from schemas.manifest import MANIFEST_NAME, DatasetManifest, read_dataset_manifest
from schemas.training import TrainingSample

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--name", "../x"], "error: --name '../x': at most 100 letters, digits, dots, dashes and underscores"),
        (["--urls", "none.csv"], "error: --urls none.csv: there is no such file or folder"),
        (
            ["--urls", "empty.csv"],
            "error: urls: empty: none of its 1 rows is a pair",
        ),
        (["--urls", "wrong.csv"], "wrong.csv has no column caption; it has ['url', 'colour']"),
        (["--root", "wrong.csv"], "error: cannot write in the data root: "),
    ],
)
def test_a_user_error_is_one_line_and_status_2(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.csv").write_text("url,caption\nhttp://a.test/1.jpg,\n")
    Path("wrong.csv").write_text("url,colour\nhttp://a.test/1.jpg,x\n")
    monkeypatch.setattr(sys, "argv", ["build_dataset.py", *options])

    with pytest.raises(SystemExit) as exit_:
        run_cli(Options, run)

    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert error.startswith("error: ") and message in error
    assert error.count("\n") == 1
    assert not list(Path().glob("**/.tmp-*"))


def test_an_unknown_option_ends_with_status_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["build_dataset.py", "--sacle", "demo"])

    with pytest.raises(SystemExit) as exit_:
        run_cli(Options, run)
    assert exit_.value.code == 2


def test_the_funnel_shows_the_three_largest_reasons() -> None:
    dropped = {"dns": 5, "http_404": 1136, "timeout": 1, "too_large": 2, "http_403": 48}
    row = {"stage": "images", "unit": "pairs", "rows_in": 5000, "rows_kept": 3808, "dropped": dropped}
    manifest = DatasetManifest(name="demo", supervisions={}, boxed_concepts=[], funnel=[row])
    console = Console(file=io.StringIO(), width=120)
    console.print(funnel_table(manifest))

    text = console.file.getvalue()
    assert "images │ pairs │ 5,000 │ 3,808 │ http_404 1,136, http_403 48, dns 5, others 3" in text


@pytest.fixture
def ray_ends() -> Iterator[None]:
    yield
    ray.shutdown()


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_growing_fetches_no_url_twice_and_gives_what_a_fresh_build_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ray_ends: None
) -> None:
    monkeypatch.setitem(SCALES, "tiny_large", replace(SCALES["tiny"], num_pairs=360))
    small = BuildConfig(scale="tiny", root=tmp_path)
    large = replace(small, scale="tiny_large")

    assert build(small) > 0
    before = read_dataset(tmp_path, "tiny")
    assert build(small) == 0
    assert "images             up to date: 2 of 2 shards verified" in capsys.readouterr().out
    assert read_dataset(tmp_path, "tiny") == before

    build(replace(large, name="tiny"))
    lines = capsys.readouterr().out.splitlines()
    assert starts(lines, "images             ran 1 of 3 shards in ").endswith(": 1 new")
    assert starts(lines, "deduplicated       ran over all 3 ").endswith(": parent changed: filtered 1 new")
    assert starts(lines, "noun_phrases       ran 1 of 3 shards in ").endswith(": 1 new")
    assert "detection_shards   up to date: 2 of 2 shards verified" in lines
    assert "validation         up to date: 1 of 1 shards verified" in lines
    counts = [json.loads(line)["url"] for line in (tmp_path / "small_web" / "requests.jsonl").read_text().splitlines()]
    again = {url for url in counts if counts.count(url) > 1 and not url.endswith("/robots.txt")}
    scenes = large.dataset().served
    assert scenes is not None
    assert len(set(counts)) > 300
    assert {scenes.kind_of(int(Path(url).stem)) for url in again} <= {"short_body"}  # tried again, since it may pass
    assert read_dataset_manifest(dataset_folder(tmp_path, "tiny") / f"{before.digest[:16]}.json") == before

    fresh = tmp_path / "fresh"
    build(replace(large, name="tiny", root=fresh))
    grown = read_dataset(tmp_path, "tiny")
    assert grown == read_dataset(fresh, "tiny")
    for split in grown.supervisions.values():
        samples = [sample for entry in split.shards for sample in read_tar(tmp_path / entry.path)]
        assert len(samples) == split.num_samples
        assert all(set(sample.members) == {"jpg", "json"} for sample in samples)
        assert all(TrainingSample.model_validate_json(sample.members["json"]) for sample in samples)
        assert all((tmp_path / e.path).read_bytes() == (fresh / e.path).read_bytes() for e in split.shards)


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_a_killed_build_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    command = [sys.executable, "ray_jobs/build_dataset.py", "--scale", "tiny"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(
        [*command, "--root", str(killed)], cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    while not list(killed.glob("images/.spool-*/spool.sqlite")):
        assert process.poll() is None and time.monotonic() < deadline, "no download was seen"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(killed.glob("image_text_shards/*"))

    for root in (killed, whole):
        done = subprocess.run(
            [*command, "--root", str(root)], cwd=REPOSITORY, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    assert files(killed) == files(whole)


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.timeout(1200)
def test_kills_of_driver_worker_and_raylet_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    outcome = kill_builds(tmp_path, pairs=400, num_kills=6, seed=1, console=Console(quiet=True))

    assert (outcome.different, outcome.refetched, outcome.errors) == ([], [], [])
    assert (len(outcome.kills) >= 6, outcome.num_completed > 300) == (True, True)


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_own_pairs_and_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str], ray_ends: None) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(10):
        Image.effect_noise((240, 200 + i), 20 + 20 * i).save(photos / f"{i}.jpg")
    instances = {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(10)],
        "annotations": [{"image_id": i, "category_id": 1, "bbox": [10, 10, 50, 40]} for i in range(10)],
        "categories": [{"id": 1, "name": "noise"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    with SmallWeb(photos, folder=tmp_path / "web") as web:
        address = next(iter(web.connect_to.values()))
        rows = [f"http://{address}/{i}.jpg,a grey image of noise {i}" for i in range(10)]
        (tmp_path / "pairs.csv").write_text(
            "\n".join(["url,caption", *rows, f"http://{address}/none.jpg,nothing there"])
        )
        strict = BuildConfig(root=tmp_path / "data", urls=(tmp_path / "pairs.csv",))
        with pytest.raises(
            ValueError, match=r"images: 11 of 11 \(100\.0%\) pairs have no image \(forbidden_address 11\)"
        ):
            build(strict)
        own = replace(strict, allow_loopback=True, detection=(tmp_path / "instances.json",), images=(photos,))
        build(own)
    assert "config changed: allow_loopback false -> true" in capsys.readouterr().out
    for figure in ("max_missing", "min_phrases"):  # the check alone is repeated, and stops again
        bound = {"max_missing": 0.05} if figure == "max_missing" else {"min_phrases": 9.0}
        with pytest.raises(ValueError, match=rf"go on with --limits\.{figure.replace('_', '-')}|Go on with"):
            build(replace(own, limits=Limits(**bound)))
    assert "ran" not in capsys.readouterr().out

    dataset = read_dataset(own.root, "pairs")
    assert {kind: split.num_samples for kind, split in dataset.supervisions.items()} == {
        "image_text": 8,
        "detection": 8,
    }
    assert dataset.boxed_concepts == ["noise"]
    # The pairs of the two validation images, which have their bytes.
    assert next(row for row in dataset.funnel if row["stage"] == "held_out")["dropped"] == {"held_out": 2}
    assert next(row for row in dataset.funnel if row["stage"] == "images")["dropped"] == {"http_404": 1}
    assert dataset.validation_annotations is not None
    assert len(json.loads((own.root / dataset.validation_annotations.path).read_text())["images"]) == 2


def test_a_plan_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["build_dataset.py", "--scale", "tiny", "--root", str(tmp_path / "x"), "--plan"])
    run_cli(Options, run)

    out = capsys.readouterr().out
    assert out.startswith("plan: nothing has run")
    assert "image_text_shards" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.integration
@pytest.mark.timeout(600)
@pytest.mark.slow
def test_a_retry_asks_for_what_failed_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str], ray_ends: None) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(4):
        Image.effect_noise((240, 200 + i), 20 + 20 * i).save(photos / f"{i}.jpg")
    with SmallWeb(photos, folder=tmp_path / "web") as web:
        address = next(iter(web.connect_to.values()))
        rows = [f"http://{address}/{i}.jpg,a grey image of noise {i}" for i in range(4)]
        with socket.create_server(("127.0.0.1", 0)) as unused:
            port = unused.getsockname()[1]
        rows.append(f"http://127.0.0.1:{port}/4.jpg,a grey image of noise 4")
        (tmp_path / "pairs.csv").write_text("\n".join(["url,caption", *rows]))
        config = BuildConfig(root=tmp_path / "data", urls=(tmp_path / "pairs.csv",), allow_loopback=True)
        build(config)
        asked = web.request_counts()
        capsys.readouterr()
        with pytest.raises(ValueError, match="nothing to retry: no row was dropped for dns"):
            build(config, retry="dns")
        build(config, retry="connection")
        assert starts(capsys.readouterr().out.splitlines(), "images ").endswith(": retry 1 of connection")
        assert build(config) == 0
        assert web.request_counts() == asked


@pytest.mark.integration
@pytest.mark.timeout(600)
@pytest.mark.slow
def test_an_outage_is_an_error_and_no_finished_shard(tmp_path: Path, ray_ends: None) -> None:
    (tmp_path / "pairs.csv").write_text("url,caption\nhttp://127.0.0.1:1234/1.jpg,a small red apple\n")
    config = BuildConfig(root=tmp_path / "data", urls=(tmp_path / "pairs.csv",), allow_loopback=True)

    for _ in range(2):
        with pytest.raises(ValueError, match=r"none of its 1 URLs answered \(connection 1\): is the web in reach\?"):
            build(config)


def dataset_folder(root: Path, name: str) -> Path:
    return root / "datasets" / name


def read_dataset(root: Path, name: str) -> DatasetManifest:
    return read_dataset_manifest(dataset_folder(root, name) / MANIFEST_NAME)


def starts(lines: list[str], beginning: str) -> str:
    return next(line for line in lines if line.startswith(beginning))


def files(root: Path) -> dict[str, bytes]:
    """Every published file; the lock, the web's logs, the measured rates and Dagster's history are none."""
    others = (".lock", "requests.jsonl", "answers.jsonl", "rates.json")
    paths = [path for path in root.rglob("*") if path.is_file() and path.name not in others]
    paths = [path for path in paths if path.relative_to(root).parts[0] != "dagster"]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
