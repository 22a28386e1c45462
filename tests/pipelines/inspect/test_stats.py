import io
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from pipelines.build.assets import ASSETS
from pipelines.build.build_config import BuildConfig
from pipelines.build.dagster_assets import open_build
from pipelines.inspect.built_dataset import BuiltDataset
from pipelines.inspect.page import funnel_tables, size, split_table, write_page
from pipelines.inspect.stats import FunnelStep, dataset_stats
from pipelines.storage.tars import TarSample, write_tar
from schemas.manifest import DatasetManifest


def test_the_figures(dataset: BuiltDataset) -> None:
    stats = dataset_stats(dataset)

    def step(asset: str, rows_in: int, rows_kept: int, *, unit: str = "pairs", **dropped: int) -> FunnelStep:
        return FunnelStep(asset=asset, unit=unit, rows_in=rows_in, rows_kept=rows_kept, dropped=dropped)

    assert stats.funnels == {
        "web": [
            step("images", 5, 4, http_404=1),
            step("filtered", 4, 3, caption_too_short=1),
            step("balanced", 3, 3),
            step("phrase_counts", 3, 3),
            step("image_text_shards", 3, 3),
        ],
        "all": [step("statistics", 2, 2, unit="phrases")],
        "squares": [step("detection_shards", 6, 3, unit="boxes", box_empty=3)],
        "held_out": [step("validation", 3, 2, unit="boxes", crowd=1)],
    }
    image_text, detection = sorted(stats.splits, key=lambda split: split.supervision, reverse=True)
    assert (image_text.num_samples, image_text.boxes_per_image) == (3, {0: 3})
    assert image_text.concepts_per_image == {0: 1, 1: 1, 2: 1}
    assert image_text.top_concepts == [("square", 2), ("red square", 1)]
    assert (detection.num_samples, detection.boxes_per_image) == (3, {0: 1, 1: 1, 2: 1})
    assert detection.top_concepts == [("square", 2), ("dot", 1)]
    assert detection.shard_bytes == [10240, 10240]
    assert detection.sample_bytes[0] <= detection.sample_bytes[1] <= detection.sample_bytes[2]


def test_the_tables_and_the_page(dataset: BuiltDataset, tmp_path: Path) -> None:
    stats = dataset_stats(dataset)
    console = Console(width=100, record=True, quiet=False, file=(tmp_path / "out").open("w"))
    for table in (*funnel_tables(stats), split_table(stats)):
        console.print(table)
    text = console.export_text()
    assert "│ images            │ pairs │  5 │    4 │  80.0 │ http_404 1" in text
    assert "│ detection   │       3 │        - │      2 │ 20.0 KiB │" in text

    write_page(tmp_path / "new" / "funnel.html", stats)
    page = (tmp_path / "new" / "funnel.html").read_text()
    assert "Source web" in page
    assert "caption_too_short" in page
    assert "red square" in page
    assert "prefers-color-scheme: dark" in page
    assert "http://" not in page and "https://" not in page, "nothing is loaded from elsewhere"


def test_captions_are_counted_and_images_are(captions_dataset: BuiltDataset) -> None:
    """Pairs along the funnel, where none of an image is a copy of another; images are the samples."""
    stats = dataset_stats(captions_dataset)
    steps = {step.asset: (step.rows_in, step.rows_kept, step.dropped) for step in stats.funnels["mirror"]}
    assert steps["images"] == (6, 6, {})
    assert steps["deduplicated"] == (6, 4, {"near_duplicate_image": 2})
    assert steps["image_text_shards"] == (4, 4, {})
    (split,) = stats.splits
    assert (split.num_samples, split.num_captions) == (2, 4)
    assert split.concepts_per_image == {2: 1, 6: 1}
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(split_table(stats))
    assert "│ image_text  │       2 │        4 │" in console.export_text()


def test_sizes_are_for_people() -> None:
    assert [size(n) for n in (0, 1023, 1536, 5 * 2**20, 2**40)] == ["0 B", "1023 B", "1.5 KiB", "5.0 MiB", "1.0 TiB"]


def test_a_mirror_whose_tars_have_a_dash_in_their_names_is_one_source(
    tmp_path: Path, make_image: Callable[..., bytes]
) -> None:
    tars = tmp_path / "mirror"
    tars.mkdir()
    for name in ("part-00000", "part-b"):
        sample = TarSample(key="0", members={"jpg": make_image(size=(240, 240)), "txt": name.encode()})
        write_tar(tars / f"{name}.tar", [sample])
    inputs, runner = open_build(BuildConfig(urls=(tars,), root=tmp_path / "data"))
    for asset in ("urls", "images"):
        runner.run(asset, ASSETS[asset].jobs(inputs), where="here")
    manifest = DatasetManifest(
        name="mirror",
        supervisions={},
        boxed_concepts=[],
        funnel=[{"stage": "images", "unit": "pairs", "rows_in": 2, "rows_kept": 2, "dropped": {}}],
    )

    funnels = dataset_stats(BuiltDataset(root=runner.root, folder=runner.folder, manifest=manifest)).funnels

    assert funnels == {"mirror": [FunnelStep(asset="images", unit="pairs", rows_in=2, rows_kept=2, dropped={})]}
