"""The Dagster graph that is generated from the asset table."""

from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest
from pydantic import TypeAdapter, ValidationError

from pipelines.build.asset_rates import Rate
from pipelines.build.assets import ASSETS, Asset
from pipelines.build.build_config import BuildConfig
from pipelines.build.checks import Limits
from pipelines.build.dagster_assets import BuildOptions, asset_definitions, build, defs
from pipelines.build.forecast import forecast
from pipelines.build.jobs import shard_job
from pipelines.storage.tars import TarSample, write_tar
from schemas.manifest import MANIFEST_NAME, read_dataset_manifest
from schemas.tables import IMAGES, with_drop_reason


def parents_of(definitions: dg.Definitions) -> dict[str, set[str]]:
    graph = definitions.resolve_asset_graph()
    return {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys}
        for key in graph.toposorted_asset_keys
    }


def test_the_graph_is_that_of_the_table() -> None:
    parents = parents_of(defs)

    assert sorted(parents) == sorted([*ASSETS, "dataset"])
    assert parents["filtered"] == {"images"}
    assert parents["noun_phrases"] == {"deduplicated", "held_out"}
    assert parents["balanced"] == {"noun_phrases", "phrase_bounds"}
    assert parents["image_text_shards"] == {"balanced", "images"}
    assert parents["validation"] == {"detection_shards", "grounding_shards"}
    assert parents["dataset"] == {"statistics", "image_text_shards", "validation"}


def test_pairs_go_first() -> None:
    tags = {asset.key.to_user_string(): asset.op.tags.get("dagster/priority") for asset in asset_definitions()}

    assert {name for name, tag in tags.items() if tag} == {"detection_shards", "grounding_shards", "validation"}


def test_the_resource_has_the_options_of_the_command_line_with_their_defaults() -> None:
    options = TypeAdapter(BuildConfig).dump_python(BuildConfig(), mode="json")
    assert BuildOptions().options == {name: value for name, value in options.items() if value is not None}
    config = BuildConfig(scale="tiny", root=Path("/data"), limits=Limits(max_missing=1.0))
    assert BuildOptions.of(config).config == config
    assert BuildOptions(options={"scale": "tiny", "limits": {"max_missing": 1.0}}).config == BuildConfig(
        scale="tiny", limits=Limits(max_missing=1.0)
    )
    with pytest.raises(ValidationError, match="scales"):
        _ = BuildOptions(options={"scales": "tiny"}).config


def test_every_asset_says_what_it_holds() -> None:
    assert all(asset.descriptions_by_key[asset.key] for asset in asset_definitions())


def test_one_process_runs_all_assets() -> None:
    assert defs.executor is dg.in_process_executor, "a process a step would start a Ray cluster a step"


class KeepWide:
    """Drops images that are higher than wide."""

    name, version, input_schema, output_schema, config = "keep_wide", 1, IMAGES, IMAGES, {}

    def __call__(self, table: pa.Table) -> pa.Table:
        reasons = [
            "portrait" if height > width else None
            for width, height in zip(table["width"].to_pylist(), table["height"].to_pylist(), strict=True)
        ]
        return table.append_column("drop_reason", pa.array(reasons, pa.string())).cast(with_drop_reason(IMAGES))


@pytest.mark.integration
def test_an_asset_is_added_in_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_image) -> None:
    tars = tmp_path / "tars"
    tars.mkdir()
    samples = [
        TarSample(key=str(i), members={"jpg": make_image(size=size), "txt": b"a red kite over the hills"})
        for i, size in enumerate([(300, 240), (240, 300)])
    ]
    write_tar(tars / "a.tar", samples)
    wide = Asset(
        name="wide",
        unit="pairs",
        summary="Pairs whose image is at least as wide as high.",
        parents=("filtered",),
        find_jobs=lambda inputs: [
            shard_job("wide", KeepWide(), file, shard=shard) for shard, file in inputs.kept("filtered").items()
        ],
        where="here",
        rate=Rate(rows_per_s=1, bytes_per_row=1),
    )
    monkeypatch.setitem(ASSETS, "wide", wide)
    config = BuildConfig(urls=(tars,), root=tmp_path / "data", limits=Limits(max_duplicates=1.0))

    planned = {entry.asset: entry.why for entry in forecast(config)}
    assert planned["wide"] == planned["filtered"] == "depends on 1 new shard of images"
    assert parents_of(dg.Definitions(assets=asset_definitions(), resources={"build_options": BuildOptions()}))[
        "wide"
    ] == {"filtered"}
    build(config)
    manifest = read_dataset_manifest(tmp_path / "data" / "datasets" / "tars" / MANIFEST_NAME)
    (row,) = (row for row in manifest.funnel if row["stage"] == "wide")
    assert row == {"stage": "wide", "unit": "pairs", "rows_in": 2, "rows_kept": 1, "dropped": {"portrait": 1}}
