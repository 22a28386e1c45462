"""The dataset's manifest: what it names, and that no version of it is ever lost."""

from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.build.dataset_manifest import assemble_dataset, common_phrases, publish_dataset
from pipelines.build.job import Job
from pipelines.build.jobs import CONCEPTS, CONCEPTS_SCHEMA
from pipelines.build.phrase_jobs import PHRASE_COUNTS_FILE
from pipelines.build.publish import publish
from pipelines.stages.statistics import count_phrases
from pipelines.storage import PublishedTable, Written, locked, write_parquet
from schemas.manifest import MANIFEST_NAME, DatasetManifest, read_dataset_manifest

UNITS = {
    "statistics": "phrases",
    "image_text_shards": "pairs",
    "detection_shards": "boxes",
    "grounding_shards": "boxes",
    "validation": "images",
}


def write_tar(shard: str, num_samples: int, folder: Path) -> Written:
    names = (f"{shard}.tar", f"{shard}.index.parquet")
    for name in names:
        (folder / name).write_bytes(b"x" * num_samples)
    return Written(
        rows_in=num_samples + 1,
        rows_kept=num_samples,
        dropped={"crowd": 1},
        num_rows=dict.fromkeys(names, num_samples),
    )


def write_boxed(shard: str, concepts: list[str], folder: Path) -> Written:
    ones = [1] * len(concepts)
    table = pa.table({"concept": concepts, "num_images": ones, "num_boxes": ones}, schema=CONCEPTS_SCHEMA)
    write_parquet(table, folder / CONCEPTS)
    return write_tar(shard, 2, folder)


def write_phrases(pairs: list[list[str]], folder: Path) -> Written:
    """Counts over all pairs, as the statistics have them."""
    phrases = pa.table({"phrases": pa.array(pairs, pa.list_(pa.string()))})
    write_parquet(count_phrases([phrases]), folder / PHRASE_COUNTS_FILE)
    return Written(rows_in=len(pairs), rows_kept=len(pairs))


PAIRS = [["zebra", "cat"], ["a kite", "zebra"], ["cat", "zebra", "apple"], ["kiwi", "apple"]]


def write_validation(folder: Path) -> Written:
    (folder / "images").mkdir()
    (folder / "images" / "1.jpg").write_bytes(b"jpeg")
    (folder / "annotations.json").write_text("{}")
    return Written(rows_in=1, rows_kept=1, num_rows={"annotations.json": 1})


def table(root: Path, stage: str, shard: str, work: partial[Written] | object) -> dict[str, PublishedTable]:
    job = Job(stage=stage, version=1, shard=shard, config={"shard": shard}, num_rows=1, work=work)
    with locked(root, stage) as lease:
        return {shard: publish(job, root=root, lease=lease)}


def manifest(root: Path) -> DatasetManifest:
    image_text = table(root, "image_text_shards", "p-0", partial(write_tar, "p-0", 3))
    empty = table(root, "image_text_shards", "p-1", partial(write_tar, "p-1", 0))
    detection = table(root, "detection_shards", "d-0", partial(write_boxed, "d-0", ["bear", "cat"]))
    grounding = table(root, "grounding_shards", "g-0", partial(write_boxed, "g-0", ["a small cat", "bear"]))
    assets = {
        "statistics": table(root, "statistics", "all", partial(write_phrases, PAIRS)),
        "image_text_shards": {**image_text, **empty},
        "detection_shards": detection,
        "grounding_shards": grounding,
        "validation": table(root, "validation", "v", write_validation),
    }
    return assemble_dataset("demo", assets=assets, categories=["bear", "cat", "dog"], units=UNITS)


def test_it_names_shards_vocabularies_and_what_has_boxes(tmp_path: Path) -> None:
    dataset = manifest(tmp_path)

    splits = {kind: (split.num_samples, split.vocabulary) for kind, split in dataset.supervisions.items()}
    assert splits == {
        "image_text": (3, ["zebra", "apple", "cat"]),  # "a kite" and "kiwi" are mentioned once
        "detection": (2, ["bear", "cat", "dog"]),
        "grounding": (2, ["a small cat", "bear"]),
    }
    assert dataset.boxed_concepts == ["a small cat", "bear", "cat"]
    paths = [entry.path for split in dataset.supervisions.values() for entry in split.shards]
    assert len(paths) == 3, "a shard without a sample is not named"
    assert all((tmp_path / path).is_file() for path in paths)
    indexes = [entry.path for split in dataset.supervisions.values() for entry in split.indexes]
    assert indexes == [path.replace(".tar", ".index.parquet") for path in paths]
    assert all((tmp_path / path).is_file() for path in indexes)
    assert dataset.validation_annotations is not None and dataset.validation_images is not None
    assert (tmp_path / dataset.validation_annotations.path).read_text() == "{}"
    assert (tmp_path / dataset.validation_images / "1.jpg").is_file()
    assert dataset.funnel[1] == {
        "stage": "image_text_shards",
        "unit": "pairs",
        "rows_in": 5,
        "rows_kept": 3,
        "dropped": {"crowd": 2},
    }
    assert list(dataset.parents) == list(UNITS)


@pytest.mark.parametrize(
    ("limits", "phrases"),
    [
        ({}, ["zebra", "apple", "cat"]),
        ({"max_phrases": 2}, ["zebra", "apple"]),
        ({"min_mentions": 3}, ["zebra"]),
        ({"min_mentions": 1}, ["zebra", "apple", "cat", "a kite", "kiwi"]),
        ({"min_mentions": 4}, []),
    ],
)
def test_common_phrases_of_all_shards(tmp_path: Path, limits: dict[str, int], phrases: list[str]) -> None:
    tables = table(tmp_path, "statistics", "all", partial(write_phrases, PAIRS))

    assert common_phrases(tables, **limits) == phrases


def test_no_pairs_have_no_common_phrases(tmp_path: Path) -> None:
    empty = table(tmp_path, "statistics", "all", partial(write_phrases, []))

    assert common_phrases(empty) == common_phrases({}) == []


def test_the_manifest_does_not_depend_on_where_the_root_lies(tmp_path: Path) -> None:
    assert manifest(tmp_path / "one") == manifest(tmp_path / "two")


def test_an_older_version_stays_beside_under_its_digest(tmp_path: Path) -> None:
    folder = tmp_path / "datasets" / "demo"
    first = manifest(tmp_path)
    second = first.model_copy(update={"boxed_concepts": ["bear"]})

    assert publish_dataset(first, folder=folder) == "new"
    assert publish_dataset(first, folder=folder) is None
    assert publish_dataset(second, folder=folder) == "changed (boxed_concepts)"

    assert read_dataset_manifest(folder / MANIFEST_NAME) == second
    assert read_dataset_manifest(folder / f"{first.digest[:16]}.json") == first
    assert len(list(folder.iterdir())) == 2


def test_a_dataset_without_boxes_or_validation_has_none(tmp_path: Path) -> None:
    assets: dict[str, dict[str, PublishedTable]] = {asset: {} for asset in UNITS}
    assets["image_text_shards"] = table(tmp_path, "image_text_shards", "p-0", partial(write_tar, "p-0", 3))
    dataset = assemble_dataset("mine", assets=assets, categories=[], units=UNITS)

    assert list(dataset.supervisions) == ["image_text"]
    assert (dataset.boxed_concepts, dataset.validation_annotations, dataset.validation_images) == ([], None, None)
    assert [row["stage"] for row in dataset.funnel] == ["image_text_shards"]
