from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.job_config import JobConfig, load_recipe
from ray_jobs.recipe_check import check_recipe
from schemas.manifest import DatasetManifest, read_dataset_manifest
from schemas.training import TrainingSample
from tests.ray_jobs.small_dataset import sample, write_dataset

BOXES = [sample("detection", ["apple", "guitar"], boxes=2)] * 20
PHRASES = [sample("grounding", ["a red apple"], boxes=1)] * 20
PAIRS = [sample("image_text", ["a kite"])] * 40


def checked(path: Path, *, job: JobConfig | None = None, **train: Any) -> tuple[JobConfig, list[str]]:
    job = replace(job or load_recipe("demo:pretrain"), data=path)
    job = replace(job, train=replace(job.train, **train))
    return check_recipe(job, read_dataset_manifest(path))


def test_a_dataset_with_all_that_the_recipe_wants_needs_no_word(tmp_path: Path) -> None:
    path = write_dataset(tmp_path, BOXES + PHRASES + PAIRS, validation_boxes=1)

    job, notes = checked(path)

    assert notes == []
    assert job.train == load_recipe("demo:pretrain").train


def test_types_that_the_dataset_does_not_have_are_named(tmp_path: Path) -> None:
    job, notes = checked(write_dataset(tmp_path, BOXES, validation_boxes=1))

    assert notes == ["without grounding, image_text: the dataset has no such samples"]
    assert list(job.train.supervisions()) == ["detection"]


def test_pairs_alone_do_not_wait_for_boxes(tmp_path: Path) -> None:
    job, notes = checked(write_dataset(tmp_path, PAIRS), num_steps=4)

    assert notes == [
        "without detection, grounding: the dataset has no such samples",
        "image-text pairs from the first step on, not after 160: nothing else is trained",
        "no validation set: nothing is measured",
    ]
    assert job.train.image_text_after == 0


def test_boxes_that_are_switched_off_are_not_waited_for(tmp_path: Path) -> None:
    path = write_dataset(tmp_path, BOXES + PAIRS, validation_boxes=1)

    job, _ = checked(path, num_steps=4, detection=None, grounding=None)

    assert job.train.image_text_after == 0


def test_a_dataset_without_anything_that_the_recipe_trains_on(tmp_path: Path) -> None:
    path = write_dataset(tmp_path, PHRASES)

    with pytest.raises(ValueError, match=r"it has grounding, the recipe trains on detection: take another recipe"):
        checked(path, job=load_recipe("finetune:small"))
    with pytest.raises(ValueError, match=r"it has grounding, the recipe trains on no type of supervision"):
        checked(path, detection=None, grounding=None, image_text=None)


@pytest.mark.parametrize(
    ("name", "samples"),
    [
        ("detection", [sample("detection", ["apple"])] * 5),
        ("grounding", [sample("grounding", [])] * 5),
        ("detection", [sample("detection", ["apple"])] * 5 + PHRASES),
        ("grounding", BOXES + [sample("grounding", ["an apple"])] * 5),
    ],
)
def test_a_boxed_type_without_a_box(name: str, samples: list[TrainingSample], tmp_path: Path) -> None:
    dropped = {"image_missing": 12, "crowd": 1}
    lost = {"stage": f"{name}_shards", "unit": "boxes", "rows_in": 13, "rows_kept": 0, "dropped": dropped}
    path = write_dataset(tmp_path, samples, validation_boxes=1, funnel=[lost])

    with pytest.raises(ValueError, match="has a box") as raised:
        checked(path)

    assert str(raised.value) == (
        f"{name}: none of the dataset's 5 image(s) has a box (dropped by the build: crowd 1, image_missing 12):"
        f" correct the annotations and build it again, or leave the type out with --train.{name} off"
    )


def test_images_without_boxes_beside_others_are_right(tmp_path: Path) -> None:
    background = [sample("detection", [])] * 30

    assert checked(write_dataset(tmp_path, background + BOXES + PHRASES + PAIRS, validation_boxes=1))[1] == []


def test_a_damaged_index_is_named(tmp_path: Path) -> None:
    path = write_dataset(tmp_path, BOXES)
    index = tmp_path / "shards" / "detection.index.parquet"
    index.write_bytes(index.read_bytes()[:50])

    with pytest.raises(ValueError, match=f"shard index {index} cannot be read: .*; build the dataset again"):
        checked(path)


@pytest.mark.parametrize("steps", [1, 160])
def test_pairs_that_would_never_take_part(steps: int, tmp_path: Path) -> None:
    path = write_dataset(tmp_path, BOXES + PAIRS)

    with pytest.raises(ValueError, match="never take part") as raised:
        checked(path, num_steps=steps)

    assert str(raised.value) == (
        f"image-text pairs never take part: train.image_text_after is 160, and the training has {steps} steps; lower it,"
        " or train longer, or leave them out with --train.image-text off"
    )


def test_a_type_that_no_step_trains_is_named(tmp_path: Path) -> None:
    path = write_dataset(tmp_path, BOXES + PHRASES * 20, validation_boxes=1)

    assert checked(path, num_steps=1)[1][-1] == (
        "no step trains detection: 1 step(s) are fewer than an epoch has; train longer"
    )


def test_samples_that_are_fewer_than_a_step_takes_are_repeated(tmp_path: Path) -> None:
    _, notes = checked(write_dataset(tmp_path, BOXES[:3] + PHRASES + PAIRS, validation_boxes=1))

    assert notes == [
        "detection: the dataset has 3 sample(s), a step takes 16: some are repeated within it; a smaller"
        " --train.detection.batch-size, or fewer workers, would avoid that"
    ]


def test_what_cannot_be_measured_is_said(tmp_path: Path) -> None:
    job = replace(load_recipe("demo:pretrain"), validate_every=50)
    without = write_dataset(tmp_path / "a", BOXES + PHRASES + PAIRS)
    empty = write_dataset(tmp_path / "b", BOXES + PHRASES + PAIRS, validation_boxes=0)

    assert checked(without, job=job)[1] == [
        "no validation set: nothing is measured, and --validate-every has no effect"
    ]
    assert checked(empty, job=job)[1] == ["the validation set has 1 image(s) and no box: its figures are undefined (-)"]


@pytest.mark.parametrize("gone", ["annotations.json", "images/1.jpg"])
def test_a_validation_set_whose_files_are_gone(gone: str, tmp_path: Path) -> None:
    path = write_dataset(tmp_path, BOXES + PHRASES + PAIRS, validation_boxes=1)
    (tmp_path / "validation" / gone).unlink()

    with pytest.raises(ValueError, match="the validation set of .* cannot be read: .*; build the dataset again"):
        checked(path)


def test_a_dataset_of_an_older_build_has_no_indexes(tmp_path: Path) -> None:
    path = write_dataset(tmp_path, BOXES, validation_boxes=1)
    text = read_dataset_manifest(path).model_dump()
    text["supervisions"]["detection"]["indexes"] = []
    path.write_text(DatasetManifest.model_validate(text).model_dump_json())

    assert checked(path)[1] == ["without grounding, image_text: the dataset has no such samples"]
