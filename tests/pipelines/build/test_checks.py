"""Data quality checks: each at its bound, with what to do."""

from dataclasses import replace
from pathlib import Path

import dagster as dg

from pipelines.build.assets import ASSETS
from pipelines.build.build_config import BuildConfig
from pipelines.build.checks import CHECKS, Finding, Limits
from pipelines.build.dagster_assets import BuildOptions, check_definitions, open_build
from pipelines.storage import PublishedTable
from pipelines.storage.tars import TarSample, write_tar
from schemas.manifest import Manifest


def tables(rows_in: int, **dropped: int) -> dict[str, PublishedTable]:
    """The same counts, in two shards."""
    half = {reason: count // 2 for reason, count in dropped.items()}
    parts = (half, {reason: count - half[reason] for reason, count in dropped.items()})
    found = {}
    for shard, part, num_rows in zip(
        ("web-00000", "web-00001"), parts, (rows_in // 2, rows_in - rows_in // 2), strict=True
    ):
        manifest = Manifest(
            stage="x",
            stage_version=1,
            shard=shard,
            fingerprint="0",
            rows_in=num_rows,
            rows_kept=num_rows - sum(part.values()),
            dropped=part,
            files=[],
        )
        found[shard] = PublishedTable(folder=Path("nowhere"), manifest=manifest)
    return found


def find(asset: str, name: str, found: dict[str, PublishedTable], **limits: float) -> Finding:
    (check,) = (check for check in CHECKS if (check.asset, check.name) == (asset, name))
    return check.find(found, Limits(**limits))


def test_yield_counts_every_class_but_those_of_captions() -> None:
    finding = find("images", "image_yield", tables(100, http_404=40, dns=31, duplicate_pair=10))

    assert not finding.passed
    assert finding.message == (
        "images: 71 of 100 (71.0%) pairs have no image (http_404 40, dns 31); at most 70.0% may. "
        "Fix it, or go on with --limits.max-missing 0.72"
    )
    assert finding.figures["dropped: dns"] == 31
    assert find("images", "image_yield", tables(100, http_404=70)).passed, "the bound itself is allowed"
    assert find("images", "image_yield", tables(100, http_404=71), max_missing=0.72).passed


def test_transient_failures_are_told_from_lasting_ones() -> None:
    assert find("images", "transient_failure_rate", tables(100, http_404=60, dns=30)).passed
    finding = find("images", "transient_failure_rate", tables(100, http_404=30, dns=20, timeout=11))
    assert finding.message.startswith(
        "images: 31 of 100 (31.0%) pairs failed for a transient reason (dns 20, timeout 11);"
    )


def test_duplicates_and_boxes() -> None:
    finding = find("deduplicated", "duplicate_rate", tables(10, duplicate_image=5, near_duplicate_image=3))
    assert (finding.passed, finding.figures["share"]) == (False, 0.8)
    assert find("deduplicated", "duplicate_rate", tables(10, duplicate_image=7, caption_repeated=2)).passed

    for asset in ("detection_shards", "grounding_shards", "validation"):
        finding = find(asset, "box_drop_rate", tables(150, box_outside_image=6, box_empty=5, crowd=50))
        assert finding.message == (
            f"{asset}: web: 11 of 100 (11.0%) boxes cannot be used (box_outside_image 6, box_empty 5); "
            "at most 10.0% may. Fix it, or go on with --limits.max-bad-boxes 0.12"
        )
        assert find(asset, "box_drop_rate", tables(100, box_empty=10)).passed
        for reason in ("image_missing", "image_unreadable", "unknown_category", "no_phrase", "no_box", "size_mismatch"):
            assert not find(asset, "box_drop_rate", tables(100, **{reason: 11})).passed
        for reason in ("crowd", "difficult", "held_out", "duplicate_box"):
            assert find(asset, "box_drop_rate", tables(100, **{reason: 99})).passed, "a choice"


def test_no_box_left_is_an_error_whatever_the_bound() -> None:
    finding = find("validation", "box_drop_rate", tables(12, image_missing=8, held_out=4), max_bad_boxes=1.0)
    assert (finding.passed, finding.message) == (
        False,
        "validation: web: none of 12 boxes can be used (image_missing 8, held_out 4)",
    )
    finding = find("detection_shards", "box_drop_rate", tables(0))
    assert (finding.passed, finding.message) == (
        False,
        "detection_shards: web: there is no box in the annotations",
    )


def test_a_large_source_does_not_hide_a_small_one() -> None:
    small, large = tables(12, image_missing=6), tables(10_000)
    both = {**large, **{f"small-{i}": table for i, table in enumerate(small.values())}}
    finding = find("detection_shards", "box_drop_rate", both)
    assert (finding.passed, finding.message.partition(";")[0]) == (
        False,
        "detection_shards: small: 6 of 12 (50.0%) boxes cannot be used (image_missing 6)",
    )


def test_no_data_is_no_failure() -> None:
    assert all(check.find({}, Limits()).passed for check in CHECKS)


def test_every_check_blocks_and_says_what_it_is() -> None:
    specs = [spec for definition in check_definitions() for spec in definition.check_specs]
    assert len(specs) == len(CHECKS)
    assert all(spec.blocking and spec.description for spec in specs)


def test_a_check_of_the_graph_reads_the_tables_of_its_dataset(tmp_path: Path) -> None:
    folder = tmp_path / "tars"
    folder.mkdir()
    samples = [TarSample(key=str(i), members={"jpg": b"no image", "txt": b"a red kite"}) for i in range(3)]
    write_tar(folder / "a.tar", samples)
    config = BuildConfig(urls=(folder,), root=tmp_path / "data")
    inputs, runner = open_build(config)
    for asset in ("urls", "images"):
        runner.run(asset, ASSETS[asset].jobs(inputs), where="here")

    check = check_definitions()[0]
    result = check(BuildOptions.of(config))
    assert not result.passed
    assert result.severity == dg.AssetCheckSeverity.ERROR
    assert result.description is not None
    assert result.description.startswith("images: 3 of 3 (100.0%) pairs have no image (not_an_image 3); at most")

    assert check(BuildOptions.of(replace(config, limits=Limits(max_missing=1.0)))).passed
