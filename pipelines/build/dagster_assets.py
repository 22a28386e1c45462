"""Dagster assets of a dataset build, generated from the asset table `pipelines.build.assets.ASSETS`.

Run them embedded with `build`, which needs no server, or in the Dagster UI: ``dagster dev -m pipelines.build.dagster_assets``.
The resource ``build_options`` chooses the dataset; an asset runs only the shards that are new or whose inputs, settings or code
changed.
"""

import logging
from typing import Any

import dagster as dg
from pydantic import Field, TypeAdapter

from pipelines.build.asset_inputs import AssetInputs
from pipelines.build.assets import ASSETS, Asset
from pipelines.build.build_config import BuildConfig
from pipelines.build.checks import CHECKS, Check
from pipelines.build.dagster_history import set_damaged_aside
from pipelines.build.dataset_manifest import assemble_dataset, publish_dataset
from pipelines.build.retries import reasons_of, request_retry
from pipelines.build.runner import Runner
from pipelines.sources.boxes.names import one_spelling
from pipelines.storage import Location, data_root, format_counts, local_folder, write_text_atomically

SHARDS_RUN = "shards run"
_CONFIG = TypeAdapter(BuildConfig)


def _dumped(config: BuildConfig) -> dict[str, Any]:
    # Dagster's maps hold no null, which is the default of all options that may be one.
    dumped: dict[str, Any] = _CONFIG.dump_python(config, mode="json", exclude_none=True)
    return dumped


class BuildOptions(dg.ConfigurableResource):
    """Which dataset to build, and where: fields of `pipelines.build.build_config.BuildConfig` by name."""

    options: dict[str, Any] = Field(default_factory=lambda: _dumped(BuildConfig()))

    @classmethod
    def of(cls, config: BuildConfig) -> "BuildOptions":
        """The resource that holds a configuration."""
        return cls(options=_dumped(config))

    @property
    def config(self) -> BuildConfig:
        """The configuration; what ``options`` does not name has its default.

        Raises:
            pydantic.ValidationError: an option is unknown or has another type.
        """
        return _CONFIG.validate_python(self.options, extra="forbid")


def open_build(config: BuildConfig) -> tuple[AssetInputs, Runner]:
    """What the jobs of a dataset are made from, and the runner of its assets."""
    dataset = config.dataset()
    runner = Runner(config.root, dataset=dataset.name)
    return AssetInputs.open(dataset, runner), runner


def asset_definitions() -> list[dg.AssetsDefinition]:
    """A Dagster asset a row of the table, and ``dataset``, which comes after all of them."""
    is_parent = {parent for asset in ASSETS.values() for parent in asset.parents}
    return [
        *(_asset_definition(asset) for asset in ASSETS.values()),
        _dataset_definition([name for name in ASSETS if name not in is_parent]),
    ]


def check_definitions() -> list[dg.AssetChecksDefinition]:
    """A blocking check of its asset for each of `pipelines.build.checks.CHECKS`."""
    return [_check_definition(check) for check in CHECKS]


def _asset_definition(asset: Asset) -> dg.AssetsDefinition:
    # Image-text pairs go first: what does not depend on them runs in the order of the table, after them.
    tags = {} if "urls" in _ancestors(asset) else {"dagster/priority": "-1"}

    @dg.asset(name=asset.name, deps=asset.parents, description=asset.summary, op_tags=tags)
    def run_asset(build_options: BuildOptions) -> dg.MaterializeResult:
        inputs, runner = open_build(build_options.config)
        context = {"around": inputs.connected} if asset.needs_web else {}
        run = runner.run(asset.name, asset.jobs(inputs), where=asset.where, **context)
        metadata: dict[str, dg.RawMetadataValue] = {
            "what ran": run.line,
            "rows in": run.rows_in,
            "rows kept": run.rows_kept,
            "dropped": dg.MetadataValue.json(run.dropped),
            "shards": len(run.tables),
            SHARDS_RUN: len(run.reasons),
        }
        return dg.MaterializeResult(metadata=metadata)

    return run_asset


def _ancestors(asset: Asset) -> set[str]:
    return {asset.name}.union(*(_ancestors(ASSETS[parent]) for parent in asset.parents))


def _dataset_definition(leaves: list[str]) -> dg.AssetsDefinition:
    @dg.asset(deps=leaves, description="The manifest that names everything a training run reads.")
    def dataset(build_options: BuildOptions) -> dg.MaterializeResult:
        inputs, runner = open_build(build_options.config)
        config = inputs.dataset
        manifest = assemble_dataset(
            config.name,
            assets={asset: runner.tables(asset) for asset in ASSETS},
            categories=one_spelling(name for source in config.detection for name in source.vocabulary()),
            units={name: asset.unit for name, asset in ASSETS.items()},
        )
        wanted = {"image_text": config.pairs, "detection": config.detection, "grounding": config.grounding}
        empty = [kind for kind, sources in wanted.items() if sources and kind not in manifest.supervisions]
        if empty:
            steps = [
                f"{row['stage']} kept {row['rows_kept']} ({format_counts(row['dropped'])})" for row in manifest.funnel
            ]
            raise ValueError(f"no training sample of {' and '.join(empty)} is left: {'; '.join(steps)}")
        change = publish_dataset(manifest, folder=runner.folder)
        line = f"{'dataset':<18} {change or 'unchanged'}: {manifest.digest[:16]}"
        runner.console.print(line, highlight=False, soft_wrap=True)
        return dg.MaterializeResult(metadata={"what ran": line, "digest": manifest.digest})

    return dataset


def _check_definition(check: Check) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=check.asset, name=check.name, description=check.what, blocking=True)
    def run_check(build_options: BuildOptions) -> dg.AssetCheckResult:
        inputs, runner = open_build(build_options.config)
        finding = check.find(runner.tables(check.asset), inputs.dataset.limits)
        return dg.AssetCheckResult(
            passed=finding.passed,
            description=finding.message,
            metadata=finding.figures,
        )

    return run_check


# One process: steps in processes of their own would each start a Ray cluster.
defs = dg.Definitions(
    assets=asset_definitions(),
    asset_checks=check_definitions(),
    resources={"build_options": BuildOptions()},
    executor=dg.in_process_executor,
)


def dagster_home(root: Location) -> Location:
    """Where Dagster keeps the history of the builds of a data root, on this machine: `DAGSTER_HOME` of its UI."""
    home = local_folder(root, "dagster")
    set_damaged_aside(home)
    home.mkdir(parents=True, exist_ok=True)
    write_text_atomically(home / "dagster.yaml", "telemetry:\n  enabled: false\nnux:\n  enabled: false\n")
    return home


def build(config: BuildConfig, *, retry: str | None = None, keep_history: bool = False) -> int:
    """Bring a whole dataset up to date in this process; return the number of tables that had to be computed.

    ``retry`` names classes of failures, with commas between, of which the downloads are tried again first: see
    `pipelines.fetch.drop_reasons.RETRY_CLASSES`. Later builds go on with what that gave. With ``keep_history`` the Dagster UI
    shows this build and its checks; that takes one or two seconds.

    Raises:
        ValueError: the options or the data are at fault, or a check failed; what was finished stays.
    """
    inputs, runner = open_build(config)  # errors in the options come before anything runs
    for note in inputs.dataset.all_notes():
        runner.console.print(f"note: {note}", highlight=False, soft_wrap=True, markup=False)
    if retry is not None:
        request_retry(runner.root, inputs.downloads(), inputs.dataset.download, reasons=reasons_of(retry))
    logging.getLogger("dagster").setLevel(logging.CRITICAL)
    with _instance(config, keep_history=keep_history) as instance:
        try:
            result = dg.materialize(
                [*asset_definitions(), *check_definitions()],
                resources={"build_options": BuildOptions.of(config)},
                instance=instance,
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
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


def _instance(config: BuildConfig, *, keep_history: bool) -> dg.DagsterInstance:
    if not keep_history:
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
