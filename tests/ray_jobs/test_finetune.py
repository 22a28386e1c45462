from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detclipv2.config import ModelConfig
from detclipv2.hub import from_pretrained, save_pretrained
from detclipv2.models.detector import DetCLIPv2
from detclipv2.text.dictionary import ConceptDictionary
from ray_jobs.finetune import finetune_job, options_of
from ray_jobs.job_config import load_recipe
from schemas.manifest import DatasetManifest
from tests.ray_jobs.conftest import run_job

DATASET = DatasetManifest(name="mine", supervisions={}, boxed_concepts=[])


@pytest.fixture
def model(tiny_config: ModelConfig, tiny_detector: Callable[..., DetCLIPv2], tmp_path: Path) -> Callable[..., Path]:
    """A model folder whose names are followed by definitions."""

    def save(name: str, *, bias: float) -> Path:
        detector = tiny_detector(definitions=True)
        torch.nn.init.constant_(detector.text_encoder.projection.bias, bias)
        config = replace(tiny_config, definitions=True, prompt="a {}")
        concepts = ConceptDictionary(definitions={"owl": "a bird"})
        save_pretrained(tmp_path / name, detector, config=config, image_size=64, data_digest="d", dictionary=concepts)
        return tmp_path / name

    return save


def test_fine_tuning_keeps_the_network_the_texts_and_the_concepts_of_its_model(model: Callable[..., Path]) -> None:
    folder = model("start", bias=0.5)
    recipe = load_recipe("finetune:small")

    job = finetune_job("finetune:small", replace(options_of(recipe), model=folder, data=folder / "MANIFEST.json"))

    assert job.model == from_pretrained(folder).config
    assert job.model.prompt == "a {}"
    assert job.train == recipe.train
    assert job.num_workers == recipe.num_workers
    dictionary = job.dictionary()
    assert dictionary is not None
    assert dictionary.definitions == {"owl": "a bird"}
    detector = job.detector()
    # Weights are the model's, the text side's included.
    for name, weight in from_pretrained(folder).detector.state_dict().items():
        assert torch.equal(detector.state_dict()[name], weight)
    assert job.enricher(detector.text_encoder).texts(["owl"]) == ["a owl, a bird"]


def test_another_model_makes_another_run(model: Callable[..., Path]) -> None:
    jobs = [
        finetune_job("finetune:small", replace(options_of(load_recipe("finetune:small")), model=folder, data=folder))
        for folder in (model("one", bias=0.1), model("other", bias=0.2))
    ]

    names = [job.run_name(DATASET) for job in jobs]
    assert len(set(names)) == 2
    assert names == [job.run_name(DATASET) for job in jobs]


def test_a_job_without_a_start_keeps_its_name() -> None:
    """Checkpoints of earlier runs are found by it."""
    job = load_recipe("demo:pretrain")

    assert job.start_from is None
    assert job.run_name(DATASET) == replace(job, outputs=Path("elsewhere")).run_name(DATASET)


def test_a_model_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    options = replace(options_of(load_recipe("finetune:lvis")), model=tmp_path, data=tmp_path)

    with pytest.raises(ValueError, match="no model in .*train one with `make demo`"):
        finetune_job("finetune:lvis", options)


@pytest.mark.parametrize(
    ("recipe", "batch", "rate", "text_rate", "warmup"),
    [("finetune:lvis", 64, 4e-5, 4e-6, 1000), ("finetune:odinw", 32, 4e-5, 4e-7, 500)],
)
def test_recipes_have_the_settings_of_tables_10_and_11(
    recipe: str, batch: int, rate: float, text_rate: float, warmup: int
) -> None:
    job = load_recipe(recipe)
    settings, optim = job.train.detection, job.train.optim

    assert settings is not None
    assert settings.samples_per_worker(job.num_workers) * job.num_workers == batch == optim.reference_batch_size
    assert settings.sides_px == (1333, 800)
    assert optim.learning_rate == rate
    assert optim.learning_rate * optim.text_learning_rate_factor == pytest.approx(text_rate)
    assert optim.warmup_steps == warmup
    assert optim.weight_decay == 0.05


@pytest.mark.integration
@pytest.mark.slow
def test_a_tiny_model_is_fine_tuned_evaluated_and_registered(
    tiny_data: Path, tiny_config: ModelConfig, tiny_detector: Callable[..., DetCLIPv2], tmp_path: Path
) -> None:
    detector = tiny_detector()
    torch.nn.init.constant_(detector.text_encoder.projection.bias, 0.25)
    save_pretrained(tmp_path / "start", detector, config=tiny_config, image_size=64, data_digest="d")
    done = run_job(
        *("ray_jobs/finetune.py", "finetune:small", "--model", str(tmp_path / "start"), "--data", str(tiny_data)),
        *("--outputs", str(tmp_path / "outputs"), "--name", "tuned", "--train.epochs", "None"),
        *("--train.num-steps", "4", "--train.detection.image-size", "64", "--train.optim.learning-rate", "1e-6"),
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "fine-tuned AP50" in done.stdout
    tuned = from_pretrained(tmp_path / "outputs" / "models" / "tuned").detector
    # The projection was not centred anew: it has moved by four small steps.
    assert torch.allclose(tuned.text_encoder.projection.bias, detector.text_encoder.projection.bias, atol=1e-3)
