"""The plan says what then happens, and changes nothing."""

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from pipelines.build.asset_rates import (
    EGRESS_BYTES_PER_URL,
    RATES_NAME,
    Measured,
    Rate,
    rate_of,
    read_measured,
    record,
)
from pipelines.build.assets import ASSETS
from pipelines.build.build_config import BuildConfig
from pipelines.build.dagster_assets import open_build
from pipelines.build.forecast import AssetForecast, forecast
from pipelines.build.forecast_table import forecast_table
from pipelines.build.scales import SCALES
from pipelines.storage.tars import TarSample, write_tar


@pytest.fixture
def config(tmp_path: Path) -> BuildConfig:
    """Mirrors of two tars of CC3M and one of CC12M, each of two images."""
    for folder, shards in {"cc3m": ("a", "b"), "cc12m": ("c",)}.items():
        (tmp_path / folder).mkdir()
        for shard in shards:
            samples = []
            for i in range(2):
                buffer = io.BytesIO()
                gradient = Image.linear_gradient("L").rotate(37 * (2 * ord(shard) + i)).resize((240, 240))
                gradient.convert("RGB").save(buffer, format="JPEG")
                text = f"a red kite over the hills of {shard}{i}"
                samples.append(TarSample(key=str(i), members={"jpg": buffer.getvalue(), "txt": text.encode()}))
            write_tar(tmp_path / folder / f"{shard}.tar", samples)
    return BuildConfig(scale="cc3m", sources=tmp_path, root=tmp_path / "data")


def build(config: BuildConfig) -> dict[str, int]:
    """Everything in this process; the number of jobs that ran, by asset."""
    inputs, runner = open_build(config)
    runner.console = Console(file=io.StringIO())
    return {name: len(runner.run(name, asset.jobs(inputs), where="here").reasons) for name, asset in ASSETS.items()}


def planned(config: BuildConfig) -> dict[str, AssetForecast]:
    return {entry.asset: entry for entry in forecast(config)}


def snapshot(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_fresh_plan_of_the_small_web(tmp_path: Path) -> None:
    entries = planned(BuildConfig(scale="tiny", root=tmp_path / "data"))

    tiny = SCALES["tiny"]
    assert entries["urls"].why == "2 new (2 of emoji_scenes-00000 to emoji_scenes-00001)"
    assert entries["images"].why == "depends on 2 new shards of urls"
    assert entries["images"].num_jobs == tiny.num_pairs // tiny.pairs_per_shard == 2
    assert entries["images"].egress_bytes == tiny.num_pairs * EGRESS_BYTES_PER_URL
    assert entries["filtered"].why == entries["balanced"].why == "depends on 2 new shards of images"
    assert (entries["filtered"].num_jobs, entries["deduplicated"].num_jobs) == (2, 1)
    assert entries["detection_shards"].why == (
        "2 new (2 of emoji_scenes_detection-00000 to emoji_scenes_detection-00001)"
    )
    assert entries["validation"].why == "depends on 2 new shards of detection_shards"
    assert "held_out" not in entries
    assert not (tmp_path / "data").exists()


def test_growth_is_foretold(config: BuildConfig) -> None:
    fresh = planned(config)
    assert {asset: entry.num_jobs for asset, entry in fresh.items()} == {k: v for k, v in build(config).items() if v}

    before = snapshot(config.root)
    grown = replace(config, scale="cc15m", name="cc3m")
    entries = planned(grown)

    assert snapshot(config.root) == before
    assert entries["images"].why == "1 new (cc12m_wds-c)"
    assert list(entries["images"].up_to_date) == ["cc3m_wds-a", "cc3m_wds-b"]
    assert entries["images"].egress_bytes == 0, "a mirror asks nobody"
    assert entries["filtered"].why == entries["image_text_shards"].why == "depends on 1 new shard of images"
    assert {asset: entry.num_jobs for asset, entry in entries.items()} == {k: v for k, v in build(grown).items() if v}
    done = planned(grown)
    assert {entry.why for entry in done.values()} == {"up to date"}
    assert sum(entry.num_jobs for entry in done.values()) == 0


def test_a_changed_setting_in_the_middle_is_foretold(config: BuildConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    build(config)
    dataset = config.dataset()
    changed = replace(dataset, dedup=replace(dataset.dedup, max_distance=0))
    monkeypatch.setattr(BuildConfig, "dataset", lambda self: changed)

    entries = planned(config)

    assert entries["filtered"].num_jobs == 0
    assert entries["deduplicated"].why == "config changed: max_distance 2 -> 0 (all)"
    assert entries["noun_phrases"].why == "depends on 1 changed shard of deduplicated"
    assert entries["noun_phrases"].num_jobs == 2, "at most"


def test_rates_are_measured_else_documented(tmp_path: Path) -> None:
    assert read_measured(tmp_path) == {}
    default = Rate(rows_per_s=1, bytes_per_row=2)
    record(tmp_path, "images", num_rows=100, seconds=8, num_bytes=1000)
    record(tmp_path, "images", num_rows=300, seconds=2, num_bytes=3000)

    measured = read_measured(tmp_path)
    assert measured == {"images": Measured(num_rows=400, seconds=10, num_bytes=4000)}
    assert rate_of("images", measured, default=default) == Rate(rows_per_s=40, bytes_per_row=10)
    assert rate_of("urls", measured, default=default) == default

    (tmp_path / RATES_NAME).write_text("{")
    assert read_measured(tmp_path) == {}


def test_the_price_follows_the_rates(config: BuildConfig) -> None:
    record(config.root, "detection_shards", num_rows=10, seconds=20, num_bytes=5000)
    entries = planned(replace(config, scale="tiny"))

    entry = entries["detection_shards"]
    assert (entry.num_rows, entry.seconds, entry.storage_bytes, entry.is_measured) == (60, 120, 30_000, True)
    assert not entries["images"].is_measured


@pytest.fixture
def printed() -> Callable[[list[AssetForecast]], str]:
    def text(entries: list[AssetForecast]) -> str:
        console = Console(file=io.StringIO(), width=140)
        console.print(forecast_table(entries))
        return console.file.getvalue()

    return text


def test_the_table_has_sums(printed: Callable[[list[AssetForecast]], str]) -> None:
    entries = [
        AssetForecast(
            asset="images",
            waiting_for="1 new shard of urls",
            num_waiting=3,
            num_rows=1500,
            seconds=90,
            egress_bytes=195_000_000,
            storage_bytes=2_000,
        ),
        AssetForecast(asset="filtered", num_waiting=3, num_rows=1500, seconds=7200, storage_bytes=3_500_000_000_000),
    ]
    lines = [re.sub(r"\s*│\s*", "|", line) for line in printed(entries).splitlines()]

    assert "|images|3|0|1,500|depends on 1 new shard of urls|~2 min|195 MB|~2 kB|" in lines
    assert "|in all|6||||2 h|195 MB|3.5 TB|" in lines


def test_a_json_of_rates_is_for_people_too(tmp_path: Path) -> None:
    record(tmp_path, "urls", num_rows=1, seconds=0.5, num_bytes=3)

    assert json.loads((tmp_path / RATES_NAME).read_text()) == {"urls": {"num_rows": 1, "seconds": 0.5, "num_bytes": 3}}
