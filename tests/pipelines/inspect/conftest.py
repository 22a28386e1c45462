"""A small dataset of every kind of table, built by the runner without any web."""

import io
import json
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image
from rich.console import Console

from pipelines.build.assets import ASSETS
from pipelines.build.build_config import BuildConfig
from pipelines.build.dagster_assets import open_build
from pipelines.build.dataset_manifest import assemble_dataset, publish_dataset
from pipelines.build.job import Job
from pipelines.build.jobs import boxed_jobs, image_text_job, validation_job
from pipelines.build.phrase_jobs import PHRASE_COUNTS_FILE, phrase_count_jobs, statistics_job
from pipelines.build.runner import Runner
from pipelines.inspect.built_dataset import BuiltDataset, open_dataset
from pipelines.sources.source import ValidationCounts
from pipelines.storage import Location, Written, kept_files, write_split
from pipelines.storage.tars import TarSample, write_tar
from schemas.source_images import BoxedImage
from schemas.tables import IMAGES, PHRASES
from schemas.training import TrainingSample

UNITS = {
    "images": "pairs",
    "filtered": "pairs",
    "balanced": "pairs",
    "phrase_counts": "pairs",
    "statistics": "phrases",
    "image_text_shards": "pairs",
    "detection_shards": "boxes",
    "grounding_shards": "boxes",
    "validation": "boxes",
}
# Shard, key, colour, what happened to it, phrases.
PAIRS = [
    ("web-00000", "a1", "red", None, ["red square", "square"]),
    ("web-00000", "a2", "green", "caption_too_short", []),
    ("web-00000", "a3", None, "http_404", []),
    ("web-00001", "b1", "blue", None, ["square"]),
    ("web-00001", "b2", "black", None, []),
]


def jpeg(colour: str, size: tuple[int, int] = (40, 30)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "JPEG", quality=95)
    return file.getvalue()


class Squares:
    """Three images, number i with i boxes."""

    name = "squares"
    supervision = "detection"
    config = {"what": "squares"}  # noqa: RUF012

    def __len__(self) -> int:
        return 3

    def vocabulary(self) -> list[str]:
        return ["dot", "square"]

    def read(self, start: int, stop: int, *, resize_all: object = None):
        for i in range(start, stop):
            sample = TrainingSample(
                supervision="detection",
                width=40,
                height=30,
                concepts=["dot", "square"] if i > 1 else ["square"][:i],
                boxes_xyxy=[(0, 0, 10, 10), (5, 5, 40, 30)][:i],
                labels=[0, 1][:i],
            )
            yield BoxedImage(key=f"s{i}", jpeg=jpeg("grey"), sample=sample, dropped_boxes={"box_empty": i})


class Held:
    name = "held_out"
    config = {}  # noqa: RUF012

    def write(self, folder: Path, *, train_image_counts: dict[str, int], resize_all: object = None) -> ValidationCounts:
        (folder / "images").mkdir()
        (folder / "images" / "1.jpg").write_bytes(jpeg("white"))
        content = {"images": [{"id": 1}], "annotations": [{"id": 1}, {"id": 2}], "categories": []}
        (folder / "annotations.json").write_text(json.dumps(content))
        return ValidationCounts(num_images=1, num_boxes=2, dropped_boxes={"crowd": 1})


def write_pairs(asset: str, shard: str, folder: Path) -> Written:
    """What an asset makes of `PAIRS`."""
    schema = IMAGES if asset in ("images", "filtered") else PHRASES
    rows = []
    for name, key, colour, reason, phrases in PAIRS:
        gone = {"images": set(), "filtered": {"http_404"}}.get(asset, {"http_404", "caption_too_short"})
        if name != shard or reason in gone:
            continue
        shown = reason if (asset, reason) in {("images", "http_404"), ("filtered", "caption_too_short")} else None
        row = dict.fromkeys(schema.names) | {"key": key, "url": f"http://web.test/{key}.jpg", "source": "web"}
        row |= {"caption": f"a {colour} square", "width": 40, "height": 30, "drop_reason": shown}
        spans = {"phrase_starts": [0] * len(phrases), "phrase_ends": [1] * len(phrases)}
        rows.append(row | {"phrases": phrases} | spans)
    if asset == "images":
        images = [(key, colour) for name, key, colour, *_ in PAIRS if name == shard and colour]
        write_tar(folder / "images.tar", [TarSample(key=k, members={"jpg": jpeg(c)}) for k, c in images])
    columns = schema.append(pa.field("drop_reason", pa.string()))
    return write_split(pa.Table.from_pylist(rows, schema=columns), folder, schema=schema, where=asset)


def build(root: Location, *, version: int = 1) -> BuiltDataset:
    runner = Runner(root, dataset="small", console=Console(quiet=True))
    shards = sorted({name for name, *_ in PAIRS})
    for asset in ("images", "filtered", "balanced"):
        jobs = [
            Job(stage=asset, version=version, shard=s, config={"s": s}, num_rows=3, work=partial(write_pairs, asset, s))
            for s in shards
        ]
        runner.run(asset, jobs, where="here")
    images = runner.tables("images")
    balanced = kept_files(runner.tables("balanced"))
    runner.run("phrase_counts", phrase_count_jobs("phrase_counts", balanced, source="web"), where="here")
    counts = [table.file(PHRASE_COUNTS_FILE) for table in runner.tables("phrase_counts").values()]
    runner.run("statistics", [statistics_job("statistics", counts)], where="here")
    jobs = [
        image_text_job("image_text_shards", file, images[s].file("images.tar"), shard=s) for s, file in balanced.items()
    ]
    runner.run("image_text_shards", jobs, where="here")
    runner.run("detection_shards", boxed_jobs("detection_shards", Squares(), images_per_shard=2), where="here")
    runner.run("grounding_shards", [], where="here")
    runner.run("validation", [validation_job("validation", Held(), concepts=())], where="here")
    manifest = assemble_dataset(
        "small",
        assets={asset: runner.tables(asset) for asset in UNITS},
        categories=Squares().vocabulary(),
        units=UNITS,
    )
    publish_dataset(manifest, folder=runner.folder)
    return open_dataset(runner.folder)


@pytest.fixture
def captions_dataset(tmp_path: Path) -> BuiltDataset:
    """Of a mirror whose JSON has one URL for three captions of an image, and one for another; a smaller copy has two."""
    captions = {
        "cat": ["a cat on a wooden table", "a tabby beside a blue vase", "a pet in the kitchen"],
        "dog": ["a dog on the beach"],
        "copy": ["a cat on a chair", "someone's cat"],
    }
    images = {"cat": gradient(0), "dog": gradient(120), "copy": gradient(0, side_px=280)}
    samples = [
        TarSample(key=f"{i}{name}{j}", members={"jpg": images[name], "json": json.dumps(pair).encode()})
        for i, name in enumerate(captions)
        for j, caption in enumerate(captions[name])
        for pair in [{"url": f"http://img.test/{name}.jpg", "caption": caption}]
    ]
    (tmp_path / "mirror").mkdir()
    write_tar(tmp_path / "mirror" / "part.tar", samples)
    inputs, runner = open_build(BuildConfig(urls=(tmp_path / "mirror",), root=tmp_path / "data"))
    for asset in ASSETS.values():
        runner.run(asset.name, asset.jobs(inputs), where="here")
    assets = {name: runner.tables(name) for name in ASSETS}
    units = {asset.name: asset.unit for asset in ASSETS.values()}
    publish_dataset(assemble_dataset("mirror", assets=assets, categories=[], units=units), folder=runner.folder)
    return open_dataset(runner.folder)


def gradient(degrees: int, *, side_px: int = 320) -> bytes:
    """Images that no perceptual hash takes for one another."""
    file = io.BytesIO()
    Image.radial_gradient("L").crop((0, 40, 200, 240)).resize((side_px, side_px)).rotate(degrees).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def dataset(tmp_path: Path) -> BuiltDataset:
    return build(tmp_path / "data")
