"""Schema versions. A table's manifest and fingerprint hold them, so that a change is a reason to run."""

import pyarrow as pa

from schemas.tables import IMAGES, PHRASES, URLS

# Bumped by hand with the columns; tests/golden/schemas.json holds what each version stands for.
TABLES: dict[str, tuple[int, pa.Schema]] = {"urls": (2, URLS), "images": (2, IMAGES), "phrases": (3, PHRASES)}
TRAINING_SAMPLE = "training_sample/2"
BOXED_SAMPLE = "training_sample/1"  # without what version 2 added, the other captions of an image
VALIDATION_SET = "lvis_v1/1"


def schema_id(schema: pa.Schema) -> str:
    """``images/1``: the name and the version of a table's schema."""
    for name, (version, known) in TABLES.items():
        if schema.equals(known):
            return f"{name}/{version}"
    raise AssertionError(f"a schema without a version: {schema.names}")
