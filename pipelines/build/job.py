"""Job: one table to compute, with all that identifies it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.stages.stage import StageIdentity
from pipelines.storage import TableFile, Written
from schemas.manifest import fingerprint
from schemas.versions import schema_id


@dataclass(frozen=True, kw_only=True)
class Job:
    """One table to compute: all that identifies it, and the function that writes it into a folder.

    ``work`` crosses process borders, so it is a picklable function that gets everything else by its closure. Where the job
    ``is_resumed``, it gets ``spool``, too: a folder that outlives a killed process and goes when the table is published.
    """

    stage: str
    version: int
    shard: str
    config: dict[str, Any]
    inputs: tuple[TableFile, ...] = ()
    num_rows: int  # rows that it will read: the unit of progress
    work: Callable[..., Written]
    is_resumed: bool = False

    @classmethod
    def over(cls, files: Iterable[TableFile], **options: Any) -> "Job":
        """A job that reads all rows of some files; ``options`` are the other attributes."""
        inputs = tuple(files)
        return cls(inputs=inputs, num_rows=sum(file.num_rows for file in inputs), **options)

    @classmethod
    def of(cls, asset: str, stage: StageIdentity, *, config: Mapping[str, Any] | None = None, **options: Any) -> "Job":
        """A job of a stage: its settings, those of ``config`` and its output schema identify the table."""
        whole = {**stage.config, **(config or {}), "schema": schema_id(stage.output_schema)}
        return cls(stage=asset, version=stage.version, config=whole, **options)

    @property
    def parents(self) -> dict[str, str]:
        return {file.name: file.sha256 for file in self.inputs}

    @property
    def fingerprint(self) -> str:
        return fingerprint(stage=self.stage, version=self.version, config=self.config, parents=self.parents)
