"""MLflow model registry: versions of the registered model, the newest as candidate, the best one as champion."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

CANDIDATE = "candidate"  # the newest version
CHAMPION = "champion"  # the one that won the last comparison


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version of the model, and the run and the folder that it came from."""

    number: str
    run_id: str
    folder: Path


class Registry:
    """The versions of one registered model."""

    def __init__(self, uri: str, name: str) -> None:
        self.client = MlflowClient(uri)
        self.name = name

    def register(self, folder: Path, *, run_id: str, tags: Mapping[str, str]) -> str:
        """A version for a model folder, as the candidate; a folder that the run has registered already keeps its version."""
        try:
            self.client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = folder.resolve().as_uri()
        known = self.client.search_model_versions(f"name = '{self.name}'")
        number = next((str(v.version) for v in known if v.run_id == run_id and v.source == source), None)
        if number is None:
            version = self.client.create_model_version(self.name, source=source, run_id=run_id, tags=dict(tags))
            number = str(version.version)
        # Asked anew: another run may have registered meanwhile. Also where an earlier attempt ended before this line.
        known = self.client.search_model_versions(f"name = '{self.name}'")
        if all(int(v.version) <= int(number) for v in known):
            self.client.set_registered_model_alias(self.name, CANDIDATE, number)
        return number

    def version(self, number_or_alias: str) -> Version | None:
        """A version by its number or its alias, or None where there is none."""
        by_number = number_or_alias.isdecimal()
        find = self.client.get_model_version if by_number else self.client.get_model_version_by_alias
        try:
            found = find(self.name, number_or_alias)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return None
        folder = Path(str(found.source).removeprefix("file://"))
        return Version(number=str(found.version), run_id=str(found.run_id), folder=folder)

    def record_comparison(self, version: Version, record: Mapping[str, Any], *, promoted: bool) -> None:
        """Keep a comparison with the version and its run; then, and only then, make it the champion if it won."""
        name = f"comparisons/{self.name}-{version.number}-with-{record['champion'] or 'none'}.json"
        self.client.log_dict(version.run_id, dict(record), name)
        tags = {key: record[key] for key in ("metric", "champion", "data_digest")}
        for key, value in (tags | {"result": "won" if promoted else "lost"}).items():
            self.client.set_model_version_tag(self.name, version.number, f"comparison.{key}", str(value))
        if promoted:
            self.client.set_registered_model_alias(self.name, CHAMPION, version.number)
