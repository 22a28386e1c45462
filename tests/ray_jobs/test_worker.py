from dataclasses import replace
from pathlib import Path

from detclipv2.text.dictionary import ConceptDictionary
from ray_jobs.job_config import load_recipe
from ray_jobs.worker import concepts_of
from schemas.manifest import SupervisionSplit

GROUNDING = SupervisionSplit(num_samples=1, shards=[], vocabulary=["a small cat", "bear"])
IMAGE_TEXT = SupervisionSplit(num_samples=1, shards=[], vocabulary=["zebra", "bear"])


def test_captions_that_take_part_give_grounding_negatives() -> None:
    job = load_recipe("demo:pretrain")

    assert concepts_of(job, {"grounding": GROUNDING, "image_text": IMAGE_TEXT}) == ["zebra", "bear"]
    # Phrases of captions stay unknown to a training without pairs.
    assert concepts_of(job, {"grounding": GROUNDING}) == []


def test_the_concept_dictionary_gives_grounding_negatives(tmp_path: Path) -> None:
    ConceptDictionary(definitions={"owl": "a bird", "kite": None}).save(tmp_path / "concepts.json")
    job = replace(load_recipe("demo:pretrain"), concept_dictionary=tmp_path / "concepts.json")

    assert concepts_of(job, {"grounding": GROUNDING, "image_text": IMAGE_TEXT}) == ["zebra", "bear", "kite", "owl"]
