"""Jobs on a dataset in an object store see what they see on a local one."""

import io
import itertools
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tyro
from rich.console import Console
from upath import UPath

from detclipv2.config import SupervisionConfig
from detclipv2.data.loader import Stream
from detclipv2.data.tar_shards import Shard
from detclipv2.inference import Predictor
from detclipv2.models.detector import DetCLIPv2
from pipelines.build.dataset_manifest import assemble_dataset, publish_dataset
from pipelines.build.jobs import CONCEPTS, boxed_jobs, validation_job
from pipelines.build.runner import Runner
from pipelines.sources.emoji_scenes.pair_source import EmojiScenes
from pipelines.storage import Location, data_root, locks
from pipelines.storage.file_cache import cached_files, remove_oldest
from ray_jobs.dataset_files import shard_index
from ray_jobs.evaluate import EvaluateConfig, Evaluated, evaluate
from ray_jobs.job_config import JobConfig, load_recipe
from ray_jobs.register_model import sample_images
from ray_jobs.report import ReportData, write_report
from ray_jobs.run_storage import RunStorage
from ray_jobs.shard_check import check_shards
from ray_jobs.tracking import Tracker
from schemas.manifest import MANIFEST_NAME, DatasetManifest, read_dataset_manifest
from tests.ray_jobs.conftest import TINY_OPTIONS, run_job

CONSOLE = Console(file=io.StringIO())
NUM_IMAGES = 3


def build(root: Location) -> DatasetManifest:
    """Four images with boxes in two shards, and a validation set."""
    scenes = EmojiScenes(image_size_px=64)
    runner = Runner(root, dataset="boxes", console=CONSOLE)
    source = scenes.detection(4)
    shards = runner.run("detection_shards", boxed_jobs("detection_shards", source, images_per_shard=2), where="here")
    concepts = tuple(table.file(CONCEPTS) for table in shards.tables.values())
    job = validation_job("validation", scenes.validation(NUM_IMAGES), concepts=concepts)
    validation = runner.run("validation", [job], where="here")
    assets = {
        "statistics": {},
        "image_text_shards": {},
        "grounding_shards": {},
        "detection_shards": shards.tables,
        "validation": validation.tables,
    }
    units = {"detection_shards": "boxes", "validation": "images"}
    manifest = assemble_dataset("boxes", assets=assets, categories=source.vocabulary(), units=units)
    publish_dataset(manifest, folder=runner.folder)
    return manifest


@pytest.fixture
def dataset(bucket: UPath, cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> DatasetManifest:
    """A dataset below ``bucket / "data"``, of which the cache holds nothing."""
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.1)
    manifest = build(bucket / "data")
    remove_oldest(max_bytes=0, min_age_s=0)
    return manifest


@pytest.fixture
def predictor(tiny_detector: Callable[..., DetCLIPv2]) -> Predictor:
    return Predictor(tiny_detector(), image_size=64)


def evaluated(predictor: Predictor, dataset: DatasetManifest, root: Location) -> Evaluated:
    return evaluate(predictor, dataset, data_root=root, console=CONSOLE, max_detections=5)


@pytest.mark.integration
@pytest.mark.slow
def test_a_training_whose_data_and_checkpoints_are_in_an_object_store(
    bucket: UPath, tiny_data: Path, tmp_path: Path
) -> None:
    bucket.fs.put(str(tiny_data.parents[2]), (bucket / "data").path, recursive=True)
    data = str(bucket / "data/datasets/tiny" / MANIFEST_NAME)
    options = ("--data", data, "--storage", str(bucket / "runs"), "--name", "mine", "--outputs", str(tmp_path))

    job = run_job("ray_jobs/pretrain.py", *options, *TINY_OPTIONS)
    assert job.returncode == 0, job.stdout + job.stderr
    again = run_job("ray_jobs/pretrain.py", *options, *TINY_OPTIONS)

    assert "novel concepts" in job.stdout
    assert "up to date" in again.stdout
    storage = RunStorage(root=data_root(bucket / "runs"), name="mine")
    assert storage.steps() == [9, 12], "the newest two are kept"
    assert storage.load(12).step == 12
    assert not (tmp_path / "runs").exists()


def test_a_job_finds_the_root_of_its_data(bucket: UPath, dataset: DatasetManifest, tmp_path: Path) -> None:
    data = bucket / "data" / "datasets" / "boxes" / MANIFEST_NAME
    job = JobConfig(recipe="mine", train=load_recipe("demo:pretrain").train, data=data)
    assert read_dataset_manifest(job.data) == dataset
    assert str(job.data_root) == str(bucket / "data")
    local = replace(job, data=tmp_path / "data/datasets/boxes/MANIFEST.json")
    assert local.data_root == tmp_path / "data"


def test_the_data_of_a_command_line_is_a_path_or_a_url() -> None:
    def parsed(data: str) -> Any:
        return tyro.cli(EvaluateConfig, args=["--model", "m", "--data", data]).data

    assert parsed("a/datasets/b/MANIFEST.json") == Path("a/datasets/b/MANIFEST.json")
    assert str(parsed("s3://a/datasets/b/MANIFEST.json")) == "s3://a/datasets/b/MANIFEST.json"


def test_shards_are_checked_without_fetching_them(bucket: UPath, dataset: DatasetManifest) -> None:
    root = bucket / "data"
    check_shards(dataset, root)
    assert not cached_files()

    shard = root / dataset.supervisions["detection"].shards[1].path
    whole = shard.read_bytes()
    shard.write_bytes(whole[:100])
    with pytest.raises(ValueError, match=f"shard {shard} has 100 bytes, not {len(whole)}: it was cut off; build"):
        check_shards(dataset, root)
    shard.unlink()
    with pytest.raises(ValueError, match=f"shard {shard} is missing; build the dataset again"):
        check_shards(dataset, root)


def test_evaluation_and_report_are_those_of_a_local_dataset(
    bucket: UPath, dataset: DatasetManifest, predictor: Predictor, tmp_path: Path
) -> None:
    assert build(tmp_path / "local") == dataset
    pages, drawn, found = [], [], []
    for name, root in (("local", tmp_path / "local"), ("remote", bucket / "data")):
        result = evaluated(predictor, dataset, root)
        found.append(result)
        folder = tmp_path / name / "report"
        folder.mkdir(parents=True)
        drawn.append([path.read_bytes() for path in sample_images(dataset, result, root, folder=folder)])
        write_report(report_data(dataset, result, root), folder / "report.html")
        pages.append((folder / "report.html").read_text())
        assert len(cached_files()) == (0 if name == "local" else NUM_IMAGES + 1), "images and annotations"
    assert found[0] == found[1]
    assert len(found[0].detections) == 5 * NUM_IMAGES
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == NUM_IMAGES
    assert pages[0] == pages[1]


def report_data(dataset: DatasetManifest, result: Evaluated, root: Location) -> ReportData:
    return ReportData(
        name="run",
        run_id="0123",
        training_time_s=1.0,
        num_parameters=1,
        model_bytes=1,
        dataset=dataset,
        data_root=root,
        metrics=result.metrics,
        losses={},
        detections={1: result.detections[:5]},
        config={},
        reproduce=[],
        min_score=0.0,
    )


def test_a_validation_image_is_what_its_manifest_says_or_an_error(
    bucket: UPath, dataset: DatasetManifest, predictor: Predictor
) -> None:
    root = bucket / "data"
    assert dataset.validation_images is not None
    image = root / dataset.validation_images / "000000000002.jpg"
    image.write_bytes(image.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{image} is not what its manifest says: build the dataset again"):
        evaluated(predictor, dataset, root)
    image.unlink()
    with pytest.raises(ValueError, match=f"validation image {image} cannot be read: .*; build the dataset again"):
        evaluated(predictor, dataset, root)
    (image.parent.parent / MANIFEST_NAME).unlink()
    with pytest.raises(ValueError, match="validation set s3://.*/MANIFEST.json cannot be read: .*; build the dataset"):
        evaluated(predictor, dataset, root)


def test_the_run_names_the_manifest_in_the_store(bucket: UPath, dataset: DatasetManifest, tmp_path: Path) -> None:
    data = bucket / "data" / "datasets" / "boxes" / MANIFEST_NAME
    train = replace(load_recipe("demo:pretrain").train, grounding=None, image_text=None)
    tracker = Tracker(JobConfig(recipe="mine", train=train, data=data, outputs=tmp_path), dataset)
    tracker.close("FINISHED")

    run = tracker.client.get_run(tracker.run_id)
    assert run.data.params["data"] == str(data)
    assert {entry.dataset.source for entry in run.inputs.dataset_inputs} == {f'{{"uri": "{data}"}}'}


@pytest.mark.parametrize("loader_workers", [0, 2])
def test_training_reads_the_store_by_the_indexes(dataset: DatasetManifest, bucket: UPath, loader_workers: int) -> None:
    root = bucket / "data"
    split = dataset.supervisions["detection"]
    assert (root / split.shards[0].path).exists()  # there is a client before there are processes
    stream = Stream(
        supervision="detection",
        shards=[
            Shard(
                url=str(root / shard.path),
                num_samples=shard.num_rows,
                index=partial(shard_index, index, data_root=root),
            )
            for shard, index in zip(split.shards, split.indexes, strict=True)
        ],
        config=SupervisionConfig(batch_size=2, image_size=32, num_concepts=4),
        vocabulary=split.vocabulary,
        seed=0,
        rank=0,
        world_size=1,
        loader_workers=loader_workers,
    )
    with closing(stream.batches()) as batches:
        keys = [key for batch in itertools.islice(batches, 2) for key in batch.keys]

    assert len(set(keys)) == len(keys) == split.num_samples == 4
