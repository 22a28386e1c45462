"""No column changes without a new version."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest

from schemas.tables import IMAGES, PHRASES, URLS
from schemas.training import TrainingSample
from schemas.versions import TABLES, TRAINING_SAMPLE, schema_id

GOLDEN = Path(__file__).parents[1] / "golden" / "schemas.json"


def test_versions_stand_for_what_they_stood_for() -> None:
    found = {
        f"{name}/{version}": [f"{field.name}: {field.type}{'' if field.nullable else ' not null'}" for field in schema]
        for name, (version, schema) in TABLES.items()
    }
    found[TRAINING_SAMPLE] = TrainingSample.model_json_schema()["properties"]
    found = json.loads(json.dumps(found))
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    wanted = json.loads(GOLDEN.read_text())
    assert found == wanted, "a schema changed: bump its version in schemas/versions.py, then run with UPDATE_GOLDEN=1"


def test_a_schema_is_known_by_name_and_version() -> None:
    assert [schema_id(schema) for schema in (URLS, IMAGES, PHRASES)] == [
        f"{name}/{TABLES[name][0]}" for name in ("urls", "images", "phrases")
    ]
    with pytest.raises(AssertionError, match=r"a schema without a version: \['x'\]"):
        schema_id(pa.schema([("x", pa.int64())]))
