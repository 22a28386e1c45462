import pytest

from detclipv2.config import Supervision
from ray_jobs.worker import vocabularies_of
from schemas.manifest import DatasetManifest, SupervisionSplit

VOCABULARIES: dict[Supervision, list[str]] = {
    "detection": ["bear", "cat"],
    "grounding": ["a small cat", "bear"],
    "image_text": ["zebra", "bear", "apple"],
}


@pytest.mark.parametrize(
    ("taking_part", "vocabularies"),
    [
        (["detection", "grounding", "image_text"], {"grounding": ["a small cat", "bear", "zebra", "apple"]}),
        (["detection", "grounding"], {}),  # phrases of captions stay unknown to a training without pairs
        (["detection", "image_text"], {}),
        (["grounding", "image_text"], {"grounding": ["a small cat", "bear", "zebra", "apple"]}),
    ],
)
def test_grounding_draws_its_negatives_also_from_captions_that_take_part(
    taking_part: list[Supervision], vocabularies: dict[Supervision, list[str]]
) -> None:
    splits = {
        kind: SupervisionSplit(num_samples=1, shards=[], vocabulary=vocabulary)
        for kind, vocabulary in VOCABULARIES.items()
    }
    dataset = DatasetManifest(name="demo", supervisions=splits, boxed_concepts=[])
    before = dataset.digest

    found = vocabularies_of(dataset, taking_part)

    assert found == {kind: VOCABULARIES[kind] for kind in taking_part} | vocabularies
    assert dataset.digest == before


def test_grounding_draws_its_negatives_also_from_the_concept_dictionary() -> None:
    split = SupervisionSplit(num_samples=1, shards=[], vocabulary=["a small cat", "bear"])
    dataset = DatasetManifest(name="demo", supervisions={"grounding": split}, boxed_concepts=[])

    found = vocabularies_of(dataset, ["grounding"], concepts=["bear", "zebra"])

    assert found == {"grounding": ["a small cat", "bear", "zebra"]}
