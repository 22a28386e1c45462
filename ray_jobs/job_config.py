"""Training job configuration: the options, the recipe, the name of the run, and what is built from them."""

import importlib
import inspect
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from detclipv2.build import build_detector
from detclipv2.config import ModelConfig, TrainConfig, recorded_fields
from detclipv2.hub import from_pretrained, model_digest
from detclipv2.models.detector import DetCLIPv2
from detclipv2.models.text_encoder import TextEncoder
from detclipv2.ranges import AT_LEAST_0, AT_LEAST_1, Range, check_ranges
from detclipv2.text.dictionary import ConceptDictionary
from detclipv2.text.enrichment import Enricher
from pipelines.storage import DataRoot, Location
from ray_jobs.dataset_files import root_of_dataset
from schemas.manifest import DatasetManifest, canonical_json, sha256_hex

_FAILURES = Range("at least 0, or -1 for any number", lambda value: value >= -1)
# How weights are found, trained and named, in which a job may differ from the model that it starts from.
_NOT_OF_THE_NETWORK = {"backbone_weights", "text_weights", "prompt", "definitions"}


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options that pre-training and fine-tuning share."""

    train: TrainConfig
    """How to train."""
    data: DataRoot = Path("outputs/data/datasets/demo/MANIFEST.json")
    """The dataset, by its folder or its manifest: a path, or a URL such as s3://bucket/prefix/datasets/cc3m/MANIFEST.json."""
    outputs: Path = Path("outputs")
    """Runs, models and the MLflow database go below it."""
    name: str | None = None
    """Name of the run; the recipe and a digest of configuration, data and start model unless given.
    The same name continues a run."""
    num_workers: int = 2
    """Processes that train together."""
    use_gpu: bool = False
    """Whether each of them gets a GPU."""
    max_failures: int = 3
    """Worker failures from which training recovers by itself, from the last checkpoint. Preempted machines are not counted."""
    tracking_uri: str | None = None
    """MLflow's tracking server or database; MLFLOW_TRACKING_URI, else an SQLite file below outputs, unless given."""
    registered_model: str = "detclipv2"
    """Name under which the model is registered."""

    def __post_init__(self) -> None:
        """Raise ValueError for names and numbers that no training can have."""
        if self.name is not None:
            check_name(self.name, option="name")
        check_name(self.registered_model, option="registered_model")
        check_ranges(self, num_workers=AT_LEAST_1, max_failures=_FAILURES)


@dataclass(frozen=True, kw_only=True)
class JobConfig(RunOptions):
    """Train a detector with Ray Train, evaluate it, register it with MLflow.

    A job that is submitted again with the same configuration and data goes on where it stopped.
    """

    recipe: str = "custom"
    """The recipe that this configuration came from."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    concept_dictionary: Path | None = None
    """Definitions of concepts, made by `detclip dictionary`; model.definitions needs it."""
    start_from: Path | None = None
    """Model folder whose weights training starts from, and whose network `model` describes (ray_jobs/finetune.py)."""
    storage: DataRoot | None = None
    """Where checkpoints go: a folder that all nodes share, or a URL such as s3://bucket/runs; below outputs unless given."""
    min_workers: int | None = None
    """Fewest workers with which training goes on while machines are missing; None: it waits for num_workers.
    It takes what there is up to num_workers, and looks for more every minute."""
    num_checkpoints: int = 2
    """The newest checkpoints that are kept."""
    validate_every: int | None = None
    """Steps between two evaluations during training, on the validation set, beside the training.
    A multiple of train.checkpoint_every. None: only at the end."""
    validation_gpus: float = 0.0
    """GPUs of the process that evaluates during training; it takes no CPU from the trainers."""

    def __post_init__(self) -> None:
        """Raise ValueError for settings that contradict each other."""
        super().__post_init__()
        check_ranges(self, validation_gpus=AT_LEAST_0)
        if self.min_workers is not None and not 1 <= self.min_workers <= self.num_workers:
            raise ValueError(f"min_workers {self.min_workers}: from 1 to num_workers, {self.num_workers}")
        if self.num_checkpoints < 2:
            raise ValueError(f"num_checkpoints {self.num_checkpoints}: at least 2, since the newest may be cut off")
        if self.validate_every is not None and (
            self.validate_every < 1 or self.validate_every % self.train.checkpoint_every
        ):
            raise ValueError(
                f"validate_every {self.validate_every}: a multiple of train.checkpoint_every, {self.train.checkpoint_every}"
            )

    def run_name(self, dataset: DatasetManifest) -> str:
        """The given name, or one that equal configurations on equal data share."""
        if self.name is not None:
            return self.name
        what = {
            "train": recorded_fields(self.train),
            "model": recorded_fields(self.model),
            "workers": self.num_workers,
            "data": dataset.digest,
            "concepts": None if (dictionary := self.dictionary()) is None else dictionary.digest,
        }
        if self.start_from is not None:
            what["start_from"] = model_digest(self.start_from)
        return f"{self.recipe.replace(':', '-')}-{sha256_hex(canonical_json(what))[:8]}"

    def detector(self) -> DetCLIPv2:
        """The network as training starts with it.

        Raises:
            ValueError: weights that the configuration names are not there, or the model that it starts from cannot be read or
                has another network than the configuration says.
        """
        if self.start_from is None:
            return build_detector(self.model)
        start = from_pretrained(self.start_from)
        differing = [
            field.name
            for field in fields(ModelConfig)
            if field.name not in _NOT_OF_THE_NETWORK
            and getattr(start.config, field.name) != getattr(self.model, field.name)
        ]
        if differing:
            raise ValueError(
                f"start_from {self.start_from}: its network has other settings than the recipe's ({', '.join(differing)});"
                " use ray_jobs/finetune.py, which takes the model's own"
            )
        return start.detector

    def dictionary(self) -> ConceptDictionary | None:
        """The concept dictionary, if there is one.

        Raises:
            ValueError: the file cannot be read.
        """
        return None if self.concept_dictionary is None else ConceptDictionary.load(self.concept_dictionary)

    def enricher(self, encoder: TextEncoder) -> Enricher:
        """What turns category names into the texts that are encoded for them.

        Raises:
            ValueError: definitions are on, and there is no dictionary, or it cannot be read.
        """
        return Enricher(
            self.dictionary(),
            prompt=self.model.prompt,
            definitions=self.model.definitions,
            encode=encoder.features,
        )

    @property
    def data_root(self) -> Location:
        """What the paths of the dataset manifest are relative to.

        Raises:
            ValueError: there is no client for URLs of this kind.
        """
        return root_of_dataset(self.data)

    def absolute(self) -> "JobConfig":
        """The same job with absolute paths: a worker's working directory is another."""
        changes: dict[str, Any] = {
            name: value.absolute() for name, value in vars(self).items() if isinstance(value, Path)
        }
        prefix, colon, name = self.model.text_weights.rpartition(":")
        if name not in ("package", "random") and Path(name).exists():  # a file or folder, else a name
            changes["model"] = replace(self.model, text_weights=f"{prefix}{colon}{Path(name).absolute()}")
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """The configuration as JSON values."""
        config: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return config

    def for_dataset(self, dataset: DatasetManifest) -> "JobConfig":
        """The same job without the supervision types of which the dataset has no samples.

        Without boxes to wait for, image-text pairs take part from the first step.

        Raises:
            ValueError: no type is left.
        """
        wanted = self.train.supervisions()
        present = {name: split.num_samples for name, split in dataset.supervisions.items() if split.num_samples}
        changes: dict[str, Any] = {name: None for name in wanted if name not in present}
        left = wanted.keys() - changes.keys()
        if not left:
            raise ValueError(
                f"{self.data}: it has {_listed(present)}, the recipe trains on {_listed(wanted)}: take another recipe"
                " (ray_jobs/recipes), or build a dataset that has some"
            )
        if left == {"image_text"}:
            changes["image_text_after"] = 0
        return replace(self, train=replace(self.train, **changes)) if changes else self


def check_name(name: str, *, option: str) -> None:
    """Check that a name can be a folder, and a value in a query of MLflow.

    Raises:
        ValueError: it cannot.
    """
    if not re.fullmatch(r"[^/\\:'\"`%\x00-\x1f]{1,200}", name) or not name.strip(" ."):
        raise ValueError(
            f"{option} {name!r}: 1 to 200 characters, not all of them dots, and none of / \\ : ' \" ` % or a line break"
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "no type of supervision"


def load_recipe(name: str) -> JobConfig:
    """The configuration of a recipe, such as ``demo:pretrain`` (``ray_jobs/recipes/demo.py``, function ``pretrain``).

    Raises:
        ValueError: there is no such recipe.
    """
    folder = Path(__file__).parent / "recipes"
    module_name, _, function_name = name.partition(":")
    known = sorted(path.stem for path in folder.glob("[a-z]*.py"))
    if module_name not in known:
        raise ValueError(f"no recipe {name!r}: there are {', '.join(known)} in ray_jobs/recipes, as in demo:pretrain")
    module = importlib.import_module(f"ray_jobs.recipes.{module_name}")
    recipes = {
        key: value
        for key, value in vars(module).items()
        if not key.startswith("_") and inspect.isfunction(value) and value.__module__ == module.__name__
    }
    recipe = recipes.get(function_name or "pretrain")
    config = None if recipe is None or inspect.signature(recipe).parameters else recipe()
    if not isinstance(config, JobConfig):
        there = ", ".join(sorted(key for key, value in recipes.items() if not inspect.signature(value).parameters))
        raise ValueError(
            f"ray_jobs/recipes/{module_name}.py has no recipe {function_name or 'pretrain'!r}: there are {there}"
        )
    return replace(config, recipe=f"{module_name}:{function_name or 'pretrain'}")
