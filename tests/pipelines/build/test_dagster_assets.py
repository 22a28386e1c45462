"""The asset graph as Dagster sees it."""

import dagster as dg
from pydantic import TypeAdapter

from pipelines.build.build_config import BuildConfig
from pipelines.build.dagster_assets import ASSETS, UNITS, defs
from pipelines.build.resources import Street


def test_the_definitions_load_and_follow_the_street() -> None:
    graph = defs.resolve_asset_graph()
    names = [key.to_user_string() for key in graph.toposorted_asset_keys]

    assert sorted(names) == sorted([*UNITS, "dataset"])
    parents = {
        key.to_user_string(): {p.to_user_string() for p in graph.get(key).parent_keys}
        for key in graph.toposorted_asset_keys
    }
    assert parents["filtered"] == {"images"}
    assert parents["noun_phrases"] == {"deduplicated", "held_out"}
    assert parents["balanced"] == {"noun_phrases", "phrase_bounds"}
    assert parents["image_text_shards"] == {"balanced", "images"}
    assert parents["validation"] == {"detection_shards", "grounding_shards"}
    assert parents["dataset"] == {"statistics", "image_text_shards", "validation"}


def test_the_resource_has_the_options_of_the_command_line_with_their_defaults() -> None:
    options = TypeAdapter(BuildConfig).dump_python(BuildConfig(), mode="json")

    assert Street().model_dump() == options


def test_every_asset_says_what_it_holds() -> None:
    assert all(asset.descriptions_by_key[asset.key] for asset in ASSETS)


def test_one_process_runs_all_assets() -> None:
    assert defs.executor is dg.in_process_executor, "a process a step would start a Ray cluster a step"
