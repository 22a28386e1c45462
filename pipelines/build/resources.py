"""What the asset graph is told: which dataset to build, and where. The options of the command line as a Dagster resource."""

import dagster as dg
from pydantic import TypeAdapter

from pipelines.build.build_config import BuildConfig
from pipelines.build.runner import Runner
from pipelines.build.retries import Retries
from pipelines.build.assets import Walk


class StreetLimits(dg.Config):
    """What stops the street: `pipelines.build.checks.Limits`."""

    max_missing: float = 0.7
    max_transient: float = 0.3
    max_duplicates: float = 0.7
    min_phrases: float = 1.0
    max_bad_boxes: float = 0.1


class Street(dg.ConfigurableResource):
    """Which dataset to build, and where: the options of `pipelines.build.build_config.BuildConfig`."""

    scale: str = "demo"
    sources: str | None = None
    root: str = "outputs/data"
    name: str | None = None
    urls: str | None = None
    allow_loopback: bool = False
    image_size: int = 320
    detection: str | None = None
    grounding: str | None = None
    images: str | None = None
    validation: str | None = None
    held_out: str | None = None
    filters: str = "datacomp"
    robots: str = "obey"
    contact_url: str = ""
    max_side: int = 1333
    limits: StreetLimits = StreetLimits()


def build_config(street: Street) -> BuildConfig:
    """The options that a resource holds."""
    return TypeAdapter(BuildConfig).validate_python(street.model_dump())


def runner_of(config: BuildConfig) -> Runner:
    """The runner of a dataset."""
    return Runner(config.root, dataset=config.dataset().name)


def walk_of(config: BuildConfig, runner: Runner) -> Walk:
    """The street of a dataset, over the tables that it has now."""
    return Walk(dataset=config.dataset(), root=runner.root, tables=runner.tables, retries=Retries.read(runner.root))


def street_of(config: BuildConfig) -> Street:
    """The resource that holds these options."""
    return Street(**TypeAdapter(BuildConfig).dump_python(config, mode="json"))
