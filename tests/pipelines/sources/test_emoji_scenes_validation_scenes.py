"""The validation set: balanced, federated as LVIS is, and readable by the evaluator."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import hotcoco
import pytest
from PIL import Image

from pipelines.sources.emoji_scenes import BASE_NAMES, CONCEPTS, NOVEL_NAMES, EmojiScenes

NUM_IMAGES = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("validation")
    counts = {name: 11 if rank % 2 else 101 for rank, name in enumerate(BASE_NAMES)}
    assert EmojiScenes().validation(NUM_IMAGES).write(folder, train_image_counts=counts).num_images == NUM_IMAGES
    return folder


@pytest.fixture(scope="module")
def lvis(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "annotations.json").read_text())


def test_every_category_occurs_in_several_images(lvis: dict[str, Any]) -> None:
    assert len(lvis["images"]) == NUM_IMAGES
    assert [category["name"] for category in lvis["categories"]] == [concept.name for concept in CONCEPTS]
    assert min(category["image_count"] for category in lvis["categories"]) >= 4
    assert Counter(a["category_id"] for a in lvis["annotations"]) == {
        category["id"]: category["instance_count"] for category in lvis["categories"]
    }


def test_frequency_follows_training_so_that_novel_is_rare(lvis: dict[str, Any]) -> None:
    frequency = {category["name"]: category["frequency"] for category in lvis["categories"]}
    assert {frequency[name] for name in NOVEL_NAMES} == {"r"}
    assert frequency[BASE_NAMES[0]] == "f" and frequency[BASE_NAMES[1]] == "c"


def test_federation(lvis: dict[str, Any]) -> None:
    present: dict[int, Counter[int]] = {image["id"]: Counter() for image in lvis["images"]}
    for annotation in lvis["annotations"]:
        present[annotation["image_id"]][annotation["category_id"]] += 1
    not_exhaustive = [(image["id"], c) for image in lvis["images"] for c in image["not_exhaustive_category_ids"]]
    assert 5 <= len(not_exhaustive) <= 40
    for image_id, category_id in not_exhaustive:
        assert present[image_id][category_id] >= 1
    for image in lvis["images"]:
        assert len(set(image["neg_category_ids"])) == 10
        assert not set(image["neg_category_ids"]) & present[image["id"]].keys()


def test_images_are_there_and_repeatable(folder: Path, lvis: dict[str, Any], tmp_path: Path) -> None:
    assert sorted(path.name for path in (folder / "images").iterdir()) == [
        image["file_name"] for image in lvis["images"]
    ]
    assert Image.open(folder / "images" / lvis["images"][0]["file_name"]).size == (160, 160)
    EmojiScenes().validation(8).write(tmp_path, train_image_counts={})
    for path in (tmp_path / "images").iterdir():
        assert path.read_bytes() == (folder / "images" / path.name).read_bytes()


def test_images_are_not_those_of_training(folder: Path) -> None:
    scenes = EmojiScenes()
    training = {image.jpeg for image in scenes.detection(20).read(0, 20)} | {scenes.image(index) for index in range(20)}
    assert not training & {path.read_bytes() for path in (folder / "images").iterdir()}


def test_evaluator_reads_it_and_finds_its_own_boxes_perfect(folder: Path, lvis: dict[str, Any]) -> None:
    truth = hotcoco.COCO(str(folder / "annotations.json"))
    fields = ("image_id", "category_id", "bbox")
    evaluation = hotcoco.LVISeval(
        truth, truth.load_res([{k: a[k] for k in fields} | {"score": 0.5} for a in lvis["annotations"]]), "bbox"
    )
    evaluation.run()
    results = evaluation.get_results()
    assert results["AP"] == results["APr"] == results["APf"] == pytest.approx(1.0)


def test_synonyms_begin_with_the_name_and_come_from_unicode(lvis: dict[str, Any]) -> None:
    by_name = {category["name"]: category for category in lvis["categories"]}
    assert by_name["doughnut"]["synonyms"] == ["doughnut"]
    assert by_name["snowman"]["synonyms"][0] == "snowman"
    assert by_name["birthday cake"]["synset"] == "birthday_cake.n.01"
    assert all(category["synonyms"][0] == category["name"] and category["def"] for category in lvis["categories"])
