"""The asset graph: the data street as Dagster sees it. What each asset reads and runs is told by `pipelines.build.assets`.

Run it embedded with `build`, which needs no server, or in the Dagster UI: ``dagster dev -m pipelines.build.dagster_assets``. The resource
``street`` chooses the dataset; an asset runs only the shards that are new or whose inputs, settings or code changed.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import dagster as dg

from pipelines.build.build_config import BuildConfig, DatasetConfig
from pipelines.build.checks import CHECKS, Check, Finding
from pipelines.build.resources import Street, build_config, runner_of, street_of, walk_of
from pipelines.build.runner import AssetRun, Runner, Where
from pipelines.build.dataset_manifest import assemble_dataset, publish_dataset
from pipelines.build.retries import reasons_of, request_retry
from pipelines.build.job import Job
from pipelines.storage import Location, data_root, format_counts, local_folder, write_text_atomically
from pipelines.build.assets import ASSETS as STREET
from pipelines.build.assets import Walk

UNITS = {name: asset.unit for name, asset in STREET.items()}
SHARDS_RUN = "shards run"
AFTER_PAIRS = {"dagster/priority": "-1"}  # what does not hang together runs in the order of the street


def _opened(street: Street) -> tuple[Walk, Runner]:
    config = build_config(street)
    runner = runner_of(config)
    return walk_of(config, runner), runner


def _run(street: Street, asset: str, *, where: Where) -> dg.MaterializeResult:
    walk, runner = _opened(street)
    return _result(runner.run(asset, walk.jobs(asset), where=where))


def _result(run: AssetRun) -> dg.MaterializeResult:
    metadata: dict[str, dg.RawMetadataValue] = {
        "what ran": run.line,
        "rows in": run.rows_in,
        "rows kept": run.rows_kept,
        "dropped": dg.MetadataValue.json(run.dropped),
        "shards": len(run.tables),
        SHARDS_RUN: len(run.reasons),
    }
    return dg.MaterializeResult(metadata=metadata)


@dg.asset
def urls(street: Street) -> dg.MaterializeResult:
    """Distinct, well-formed image-text pairs of every source, in shards of consecutive rows."""
    return _run(street, "urls", where="here")


@dg.asset(deps=[urls])
def images(street: Street) -> dg.MaterializeResult:
    """The images: downloaded, tried again, or taken from a mirror."""
    walk, runner = _opened(street)

    @contextmanager
    def connected(due: list[Job]) -> Iterator[list[Job]]:
        with walk.dataset.connected(folder=local_folder(runner.root, "small_web")) as download:
            ready = {job.shard: job for job in walk.image_jobs(download)}
            yield [ready[job.shard] for job in due]

    return _result(runner.run("images", walk.jobs("images"), where="ray", around=connected))


@dg.asset(deps=[images])
def filtered(street: Street) -> dg.MaterializeResult:
    """Pairs whose image is large enough and whose caption is English text."""
    return _run(street, "filtered", where="ray")


@dg.asset(deps=[filtered])
def deduplicated(street: Street) -> dg.MaterializeResult:
    """One pair an image, over all shards."""
    return _run(street, "deduplicated", where="here")


@dg.asset(deps=[deduplicated])
def held_out(street: Street) -> dg.MaterializeResult:
    """Pairs whose image is not kept for evaluation, where the build names such images."""
    return _run(street, "held_out", where="here")


@dg.asset(deps=[deduplicated, held_out])
def noun_phrases(street: Street) -> dg.MaterializeResult:
    """Pairs with the noun phrases of their captions."""
    return _run(street, "noun_phrases", where="actors")


@dg.asset(deps=[noun_phrases])
def phrase_bounds(street: Street) -> dg.MaterializeResult:
    """The phrases that are too rare or too common over all shards, where the build bounds them."""
    return _run(street, "phrase_bounds", where="here")


@dg.asset(deps=[noun_phrases, phrase_bounds])
def balanced(street: Street) -> dg.MaterializeResult:
    """Fewer pairs of what the web has too much of."""
    return _run(street, "balanced", where="ray")


@dg.asset(deps=[balanced])
def phrase_counts(street: Street) -> dg.MaterializeResult:
    """How many pairs of a few shards each have a phrase."""
    return _run(street, "phrase_counts", where="ray")


@dg.asset(deps=[phrase_counts])
def statistics(street: Street) -> dg.MaterializeResult:
    """How often each phrase and head noun occurs: phrases.parquet and heads.parquet."""
    return _run(street, "statistics", where="here")


@dg.asset(deps=[balanced, images])
def image_text_shards(street: Street) -> dg.MaterializeResult:
    """Training shards of images with captions and phrases."""
    return _run(street, "image_text_shards", where="ray")


@dg.asset(op_tags=AFTER_PAIRS)
def detection_shards(street: Street) -> dg.MaterializeResult:
    """Training shards of images with boxes and category names."""
    return _run(street, "detection_shards", where="ray")


@dg.asset(op_tags=AFTER_PAIRS)
def grounding_shards(street: Street) -> dg.MaterializeResult:
    """Training shards of images with boxes and phrases."""
    return _run(street, "grounding_shards", where="ray")


@dg.asset(deps=[detection_shards, grounding_shards], op_tags=AFTER_PAIRS)
def validation(street: Street) -> dg.MaterializeResult:
    """The held-out images in LVIS v1 format; how rare a category is follows from the training boxes."""
    return _run(street, "validation", where="here")


@dg.asset(deps=[statistics, image_text_shards, validation])
def dataset(street: Street) -> dg.MaterializeResult:
    """The manifest that names everything a training run reads."""
    walk, runner = _opened(street)
    config: DatasetConfig = walk.dataset
    manifest = assemble_dataset(
        config.name,
        assets={asset: runner.tables(asset) for asset in UNITS},
        categories=sorted({name for source in config.detection for name in source.vocabulary()}),
        units=UNITS,
    )
    if not manifest.supervisions:
        steps = [f"{row['stage']} kept {row['rows_kept']} ({format_counts(row['dropped'])})" for row in manifest.funnel]
        raise ValueError(f"no training sample is left: {'; '.join(steps)}")
    change = publish_dataset(manifest, folder=runner.folder)
    line = f"{'dataset':<18} {change or 'unchanged'}: {manifest.digest[:16]}"
    runner.console.print(line, highlight=False)
    return dg.MaterializeResult(metadata={"what ran": line, "digest": manifest.digest})


def _asset_check(check: Check) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=check.asset, name=check.name, description=check.what, blocking=True)
    def found(street: Street) -> dg.AssetCheckResult:
        finding = _finding(check, build_config(street))
        return dg.AssetCheckResult(
            passed=finding.passed,
            description=finding.message,
            metadata=finding.figures,
            severity=dg.AssetCheckSeverity.ERROR,
        )

    return found


def _finding(check: Check, config: BuildConfig) -> Finding:
    return check.find(runner_of(config).tables(check.asset), config.limits)


ASSETS = [
    urls,
    images,
    filtered,
    deduplicated,
    held_out,
    noun_phrases,
    phrase_bounds,
    balanced,
    phrase_counts,
    statistics,
    image_text_shards,
    detection_shards,
    grounding_shards,
    validation,
    dataset,
]
ASSET_CHECKS = [_asset_check(check) for check in CHECKS]
# One process: steps in processes of their own would each start a Ray cluster.
defs = dg.Definitions(
    assets=ASSETS, asset_checks=ASSET_CHECKS, resources={"street": Street()}, executor=dg.in_process_executor
)


def dagster_home(root: Location) -> Path:
    """Where Dagster keeps the history of the builds of a data root, on this machine: `DAGSTER_HOME` of its UI."""
    home = local_folder(root, "dagster")
    home.mkdir(parents=True, exist_ok=True)
    write_text_atomically(home / "dagster.yaml", "telemetry:\n  enabled: false\nnux:\n  enabled: false\n")
    return home


def build(config: BuildConfig, *, retry: str | None = None, history: Literal["kept", "none"] = "none") -> int:
    """Bring a whole dataset up to date in this process.

    Args:
        config: what to build.
        retry: classes of failures, with commas between, of which the downloads are tried again first; see
            `pipelines.build.retries.RETRY_CLASSES`. Later builds go on with what that gave.
        history: "kept" has the Dagster UI show this build and its checks; it takes one or two seconds.

    Returns:
        The number of tables that had to be computed.

    Raises:
        ValueError: the options or the data are at fault, or a check failed; what was finished stays.
    """
    dataset = config.dataset()  # errors in the options come before anything runs
    if retry is not None:
        reasons, runner = reasons_of(retry), runner_of(config)
        downloads = walk_of(config, runner).downloads()
        request_retry(runner.root, downloads, dataset.download, reasons=reasons)
    logging.getLogger("dagster").setLevel(logging.CRITICAL)
    street = street_of(config)
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    with _instance(config, history) as instance:
        try:
            result = dg.materialize(
                [*ASSETS, *ASSET_CHECKS], resources={"street": street}, instance=instance, run_config=quiet
            )
        except dg.DagsterExecutionInterruptedError as error:
            raise KeyboardInterrupt from error
        except dg.DagsterError as error:
            failed = _failed_checks(instance)
            if not failed:
                raise
            raise ValueError("; ".join(failed)) from error
    counts = [event.materialization.metadata.get(SHARDS_RUN) for event in result.get_asset_materialization_events()]
    return sum(count.value or 0 for count in counts if isinstance(count, dg.IntMetadataValue))


def _instance(config: BuildConfig, history: Literal["kept", "none"]) -> dg.DagsterInstance:
    if history == "none":
        return dg.DagsterInstance.ephemeral()
    try:
        home = dagster_home(data_root(config.root))
    except OSError as error:
        raise ValueError(f"cannot write in the data root: {error}") from error
    return dg.DagsterInstance.from_config(str(home))


def _failed_checks(instance: dg.DagsterInstance) -> list[str]:
    """What the checks of the last run found that did not pass."""
    messages = []
    (run,) = instance.get_runs(limit=1)  # the newest
    for check in CHECKS:
        key = dg.AssetCheckKey(dg.AssetKey(check.asset), check.name)
        for record in instance.event_log_storage.get_asset_check_execution_history(key, limit=1):
            evaluation = record.evaluation if record.run_id == run.run_id else None
            if isinstance(evaluation, dg.AssetCheckEvaluation) and not evaluation.passed:
                messages.append(str(evaluation.description))
    return messages
