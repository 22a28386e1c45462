"""Which jobs each asset wants, over sources that bring their images: nothing here needs a web, Ray or Dagster."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from pipelines.build.asset_inputs import AssetInputs
from pipelines.build.assets import ASSETS
from pipelines.build.build_config import DatasetConfig
from pipelines.build.phrase_jobs import BOUNDS_FILE
from pipelines.build.retries import Retries
from pipelines.build.runner import AssetRun, Runner
from pipelines.fetch.download import IMAGES_TAR_NAME
from pipelines.sources.captions.captioned_images import CaptionedImages
from pipelines.sources.captions.conceptual_captions import ConceptualCaptions
from pipelines.sources.captions.laion_parquet import LaionParquet
from pipelines.sources.captions.webdataset_mirror import WebDatasetMirror
from pipelines.sources.held_out_images import held_out_images
from pipelines.stages.balance import Balance
from pipelines.stages.filters import Filters
from pipelines.storage import DROPPED, kept_files
from pipelines.storage.tars import TarSample, read_tar, write_tar
from schemas.shard_index import source_of

PAIR_ASSETS = [name for name, asset in ASSETS.items() if asset.unit in ("pairs", "phrases")]


def jpeg(i: int) -> bytes:
    """Images that no perceptual hash takes for one another."""
    buffer = io.BytesIO()
    Image.radial_gradient("L").crop((10 * i, 5 * i, 130 + 10 * i, 150)).resize((240, 240)).rotate(50 * i).convert(
        "RGB"
    ).save(buffer, format="JPEG")
    return buffer.getvalue()


def mirror(folder: Path, name: str, shards: dict[str, dict[str, int]]) -> WebDatasetMirror:
    """Tars by name, each with URLs and the number of the image that each shows."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    for shard, images in shards.items():
        samples = [
            TarSample(
                key=f"{i:04d}",
                members={
                    "jpg": jpeg(image),
                    "json": json.dumps({"url": url, "caption": f"a photo of a red kite over the {i} hills"}).encode(),
                },
            )
            for i, (url, image) in enumerate(images.items())
        ]
        write_tar(folder / name / f"{shard}.tar", samples)
    return WebDatasetMirror(path=str(folder / name), name=name)


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path / "data", dataset="mine", console=Console(file=io.StringIO()))


@pytest.fixture
def old(tmp_path: Path) -> WebDatasetMirror:
    """The older source; its name sorts last."""
    images = {"a": {"http://a.test/0.jpg": 0, "http://a.test/1.jpg": 1}, "b": {"http://a.test/2.jpg": 2}}
    return mirror(tmp_path, "zebra", images)


@pytest.fixture
def new(tmp_path: Path) -> WebDatasetMirror:
    """Shows image 1 of the older source, and two others."""
    images = {"http://b.test/1.jpg": 1, "http://b.test/3.jpg": 3, "http://b.test/000000000139.jpg": 4}
    return mirror(tmp_path, "apple", {"a": images})


def config(*pairs: WebDatasetMirror) -> DatasetConfig:
    return DatasetConfig(name="mine", pairs=pairs, filters=Filters(min_side_px=100))


def build(dataset: DatasetConfig, runner: Runner) -> dict[str, AssetRun]:
    inputs = AssetInputs(dataset=dataset, root=runner.root, tables=runner.tables, retries=Retries.read(runner.root))
    return {asset: runner.run(asset, ASSETS[asset].jobs(inputs), where="here") for asset in PAIR_ASSETS}


def dropped(run: AssetRun) -> dict[str, str]:
    """Reason by URL."""
    reasons = {}
    for table in run.tables.values():
        for entry in table.manifest.files:
            if entry.path.endswith(DROPPED):
                rows = pq.read_table(table.folder / entry.path)
                reasons.update(zip(rows["url"].to_pylist(), rows["drop_reason"].to_pylist(), strict=True))
    return reasons


def test_a_source_that_is_added_leaves_the_shards_of_the_others_alone(
    old: WebDatasetMirror, new: WebDatasetMirror, runner: Runner
) -> None:
    first = build(config(old), runner)
    assert {asset: run.reasons for asset, run in first.items()} == {
        "urls": [],
        "images": ["new", "new"],
        "filtered": ["new", "new"],
        "deduplicated": ["new"],
        "held_out": [],
        "noun_phrases": ["new", "new"],
        "phrase_bounds": [],
        "balanced": ["new", "new"],
        "phrase_counts": ["new"],
        "statistics": ["new"],
        "image_text_shards": ["new", "new"],
    }

    grown = build(config(old, new), runner)
    for asset in ("images", "filtered", "noun_phrases", "balanced", "image_text_shards"):
        assert list(grown[asset].tables) == ["apple-a", "zebra-a", "zebra-b"]
        assert grown[asset].reasons == ["new"], asset
    assert (list(grown["phrase_counts"].tables), grown["phrase_counts"].reasons) == (
        ["apple-00000", "zebra-00000"],
        ["new"],
    )
    assert dropped(grown["deduplicated"]) == {"http://b.test/1.jpg": "duplicate_image"}, "the older source wins"
    assert [run.reasons for run in build(config(old, new), runner).values()] == [[]] * len(PAIR_ASSETS)


def test_a_bound_on_phrases_holds_over_all_shards(old: WebDatasetMirror, new: WebDatasetMirror, runner: Runner) -> None:
    """Every caption has a red kite: no shard alone has five of them."""
    dataset = replace(config(old, new), balance=Balance(max_count=1))
    runs = build(dataset, runner)
    bounds = pq.read_table(runs["phrase_bounds"].tables["all"].file(BOUNDS_FILE).local())
    assert {"phrase": "red kite", "count": 5} in bounds.to_pylist()
    assert [run.reasons for run in build(dataset, runner).values()] == [[]] * len(PAIR_ASSETS)

    first = build(replace(config(old), balance=Balance(max_count=1)), runner)
    assert first["phrase_bounds"].reasons[0] == "parent changed: noun_phrases 1 gone"
    assert first["balanced"].reasons == ["parent changed: phrase_bounds 1 changed"] * 2


def test_the_order_of_sources_is_a_reason_to_run(old: WebDatasetMirror, new: WebDatasetMirror, runner: Runner) -> None:
    build(config(old, new), runner)

    turned = build(config(new, old), runner)
    (reason,) = turned["deduplicated"].reasons
    assert reason.startswith("config changed: sources ")
    assert dropped(turned["deduplicated"]) == {"http://a.test/1.jpg": "duplicate_image"}


def test_held_out_images_leave_by_id_and_by_hash(
    old: WebDatasetMirror, new: WebDatasetMirror, runner: Runner, tmp_path: Path
) -> None:
    runs = build(config(old, new), runner)
    (zebra_b,) = pq.read_table(kept_files(runs["images"].tables)["zebra-b"].path).to_pylist()
    (tmp_path / "ids.txt").write_text("000000000139.jpg\n")
    row = {"file_name": "2.jpg", "sha256": zebra_b["sha256"], "phash": zebra_b["phash"]}
    images = held_out_images(ids=[tmp_path / "ids.txt"], hashes=pa.Table.from_pylist([row]))

    held = build(replace(config(old, new), held_out=images), runner)

    assert dropped(held["held_out"]) == {
        "http://b.test/000000000139.jpg": "held_out",
        "http://a.test/2.jpg": "held_out",
    }
    assert held["images"].reasons == held["deduplicated"].reasons == []
    assert [(s, r) for s, r in zip(held["noun_phrases"].tables, held["noun_phrases"].reasons, strict=True)] == [
        ("apple-a", "parent changed: deduplicated 1 gone; held_out 1 new"),
        ("zebra-a", "parent changed: deduplicated 1 gone; held_out 1 new"),
        ("zebra-b", "parent changed: deduplicated 1 gone; held_out 1 new"),
    ]
    assert held["image_text_shards"].rows_kept == 3
    assert build(config(old, new), runner)["noun_phrases"].reasons == [], "going back costs nothing"


def test_images_of_a_mirror_are_stored_by_key(old: WebDatasetMirror, runner: Runner) -> None:
    table = build(config(old), runner)["images"].tables["zebra-a"]

    keys = [sample.key for sample in read_tar(table.folder / IMAGES_TAR_NAME)]
    assert keys == pq.read_table(table.folder / "kept.parquet")["key"].to_pylist()
    assert table.manifest.config["ingest"] is True
    assert table.manifest.config["schema"] == "images/2"
    assert next(e.num_rows for e in table.manifest.files if e.path == IMAGES_TAR_NAME) == 2


def test_captions_beside_images_grow_like_any_source(tmp_path: Path, old: WebDatasetMirror, runner: Runner) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(5, 8):
        (folder / f"{i}.jpg").write_bytes(jpeg(i))
        (folder / f"{i}.txt").write_text(f"a photo of a red kite over the {i} lakes")
    (folder / "8.jpg").write_bytes(jpeg(8))
    photos = CaptionedImages(captions=folder, name="photos", images_per_shard=2)
    dataset = replace(config(old), pairs=(old, photos))
    runs = build(dataset, runner)
    assert list(runs["images"].tables) == ["photos-00000", "photos-00001", "zebra-a", "zebra-b"]
    assert dropped(runs["images"]) == {"images://photos/8.jpg": "caption_missing"}
    assert [run.reasons for run in build(dataset, runner).values()] == [[]] * len(PAIR_ASSETS)

    (folder / "8.txt").write_text("a photo of a red kite over the 8 lakes")
    grown = build(dataset, runner)
    assert len(grown["images"].reasons) == 1, "the first shard is as it was"
    assert dropped(grown["images"]) == {}


def test_urls_of_a_file_come_in_batches_and_a_repeat_is_found_in_a_later_shard(tmp_path: Path, runner: Runner) -> None:
    rows = ["a red kite\thttp://a.test/1.jpg", "a dog\thttp://a.test/2.jpg", "a red kite\thttp://a.test/1.jpg", "\tx"]
    (tmp_path / "cc.tsv").write_text("\n".join(rows) + "\n")
    source = ConceptualCaptions(path=str(tmp_path / "cc.tsv"), name="cc")
    dataset = DatasetConfig(name="mine", pairs=(source,), pairs_per_shard=2)
    inputs = AssetInputs(dataset=dataset, root=runner.root, tables=runner.tables, retries=Retries.read(runner.root))

    run = runner.run("urls", ASSETS["urls"].jobs(inputs), where="here")

    assert run.dropped == {"duplicate_pair": 1, "url_invalid": 1}
    assert {shard: file.num_rows for shard, file in inputs.kept("urls").items()} == {"cc-00000": 2, "cc-00001": 0}

    (tmp_path / "more.tsv").write_text("a zebra\thttp://b.test/1.jpg\n")
    more = ConceptualCaptions(path=str(tmp_path / "more.tsv"), name="more")
    grown = replace(inputs, dataset=replace(dataset, pairs=(source, more)))
    assert runner.run("urls", ASSETS["urls"].jobs(grown), where="here").reasons == ["new"]


def test_a_block_without_a_pair_is_an_error_only_where_the_source_begins(tmp_path: Path, runner: Runner) -> None:
    for name, captions in (("0", ["a kite", " "]), ("1", [" "])):
        columns = {"URL": [f"http://{name}.test/{i}" for i in range(len(captions))], "TEXT": captions}
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    source = LaionParquet(path=str(tmp_path / "*.parquet"), name="laion")
    dataset = DatasetConfig(name="mine", pairs=(source,), pairs_per_shard=1)
    inputs = AssetInputs(dataset=dataset, root=runner.root, tables=runner.tables, retries=Retries.read(runner.root))

    run = runner.run("urls", ASSETS["urls"].jobs(inputs), where="here")
    assert (list(run.tables), run.dropped) == (["laion-00000", "laion-00002"], {"caption_empty": 2})
    assert [file.num_rows for file in inputs.kept("urls").values()] == [1, 0, 0]

    (tmp_path / "0.parquet").unlink()
    with pytest.raises(ValueError, match=r"laion-00000: none of its 1 rows is a pair \(caption_empty 1\)"):
        runner.run("urls", ASSETS["urls"].jobs(inputs), where="here")


def test_two_sources_of_one_name_and_a_dash_are_refused(old: WebDatasetMirror) -> None:
    with pytest.raises(ValueError, match="the source name 'zebra' has a dash or is there twice: rename its file"):
        config(old, old)
    with pytest.raises(ValueError, match="the source name 'my-zebra' has a dash"):
        config(replace(old, name="my-zebra"))


def test_the_source_of_a_shard() -> None:
    assert source_of("cc3m_wds-cc3m-train-0000") == "cc3m_wds"
