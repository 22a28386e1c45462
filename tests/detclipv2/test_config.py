from dataclasses import asdict, replace

from detclipv2.config import LossConfig, ModelConfig, SupervisionConfig, TrainConfig, recorded_fields


def test_run_names_know_yes_or_no_options_as_on_and_off() -> None:
    """As version 0.1 had them, so that a training that it began keeps its name."""
    model = ModelConfig(definitions=True, deformable=False)
    train = TrainConfig(
        num_steps=5, detection=None, grounding=None, image_text=None, loss=LossConfig(caption_as_concept=False)
    )

    changed = {"definitions": "on", "deformable": "off", "gradient_checkpointing": "off", "objectness": "off"}
    assert recorded_fields(model) == asdict(model) | changed
    recorded = recorded_fields(train)
    assert recorded["loss"] == asdict(train.loss) | {"caption_as_concept": "off"}
    assert recorded | {"loss": None} == asdict(train) | {"loss": None}


def test_a_later_field_changes_a_run_name_only_where_it_changes_the_training() -> None:
    settings = SupervisionConfig(batch_size=1, image_size=64)
    train = TrainConfig(num_steps=5, detection=settings, grounding=None, image_text=None)
    weighted = replace(train, detection=replace(settings, weight=2.0))

    assert "weight" not in recorded_fields(train)["detection"]
    assert recorded_fields(weighted)["detection"] == recorded_fields(train)["detection"] | {"weight": 2.0}


def test_canvas_is_that_of_a_landscape_image() -> None:
    assert SupervisionConfig(batch_size=1, image_size=1333, shorter_size=800).canvas_hw == (800, 1333)
    assert SupervisionConfig(batch_size=4, image_size=64).canvas_hw == (64, 64)
