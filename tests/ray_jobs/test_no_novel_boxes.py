"""Novel concepts have no box anywhere in training: read off the shards themselves."""

import json
import tarfile
from pathlib import Path

import pytest

from pipelines.sources.emoji_scenes import BASE_NAMES, NOVEL_NAMES
from schemas.manifest import read_dataset_manifest
from schemas.training import TrainingSample

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def samples(manifest_path: Path, supervision: str) -> list[TrainingSample]:
    root = manifest_path.parents[2]
    found = []
    for shard in read_dataset_manifest(manifest_path).supervisions[supervision].shards:
        with tarfile.open(root / shard.path) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    data = tar.extractfile(member)
                    assert data is not None
                    found.append(TrainingSample.model_validate_json(data.read()))
    return found


def says(text: str, name: str) -> bool:
    """Whether a text contains a word of the name, in the singular or the plural."""
    words = set(text.lower().split())
    return any(word in words or f"{word}s" in words or f"{word}es" in words for word in name.split())


def test_no_shard_has_a_box_of_a_novel_concept(tiny_data: Path) -> None:
    texts = set()
    num_boxes = 0
    for supervision in ("detection", "grounding"):
        for sample in samples(tiny_data, supervision):
            num_boxes += len(sample.boxes_xyxy)
            texts |= {sample.concepts[label] for label in sample.labels} | set(sample.concepts)
    assert num_boxes > 200
    assert texts == set(read_dataset_manifest(tiny_data).boxed_concepts)
    assert [(text, novel) for text in texts for novel in NOVEL_NAMES if says(text, novel)] == []
    assert any(says(text, base) for text in texts for base in BASE_NAMES), "the check itself finds names"


def test_captions_name_novel_concepts_and_have_no_box(tiny_data: Path) -> None:
    pairs = samples(tiny_data, "image_text")
    assert all(not sample.boxes_xyxy for sample in pairs)
    named = {novel for sample in pairs for novel in NOVEL_NAMES if novel in sample.concepts}
    assert len(named) >= 0.8 * len(NOVEL_NAMES)


def test_validation_has_base_and_novel_categories_and_only_novel_ones_are_rare(tiny_data: Path) -> None:
    dataset = read_dataset_manifest(tiny_data)
    assert dataset.validation_annotations is not None
    annotations = json.loads((tiny_data.parents[2] / dataset.validation_annotations.path).read_text())
    categories = {category["name"]: category["frequency"] for category in annotations["categories"]}
    assert set(categories) == {*BASE_NAMES, *NOVEL_NAMES}
    assert all(categories[name] == "r" for name in NOVEL_NAMES)
    assert {"neg_category_ids", "not_exhaustive_category_ids"} <= annotations["images"][0].keys()
