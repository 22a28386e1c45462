"""Dataset manifest: names all shards of a dataset, with its funnel and its vocabulary."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.build.jobs import ANNOTATIONS, CONCEPTS, VALIDATION_IMAGES
from pipelines.build.phrase_jobs import PHRASE_COUNTS_FILE
from pipelines.sources.boxes.names import one_spelling
from pipelines.storage import Location, PublishedTable, table_name, write_text_atomically
from schemas.manifest import (
    MANIFEST_NAME,
    DatasetManifest,
    FileEntry,
    FunnelRow,
    SupervisionSplit,
    canonical_json,
    sha256_hex,
)
from schemas.shard_index import index_name

Tables = Mapping[str, PublishedTable]

# Phrases of captions that count as known concepts in training: as many as DetCLIP's concept dictionary holds, and
# none that a single pair mentions, since most of those are slips of captions or parser.
MAX_CAPTION_PHRASES = 14_000
MIN_MENTIONS = 2


def assemble_dataset(
    name: str, *, assets: Mapping[str, Tables], categories: Sequence[str], units: Mapping[str, str]
) -> DatasetManifest:
    """The manifest of what the assets hold now: tables by shard, by asset, in the order of the build.

    ``categories`` are all category names of the detection data; ``units`` say what a row of each asset is ("pairs", "boxes",
    "images"), for the funnel.
    """
    boxed = {kind: _concepts(assets[f"{kind}_shards"].values()) for kind in ("detection", "grounding")}
    vocabularies = {
        "detection": categories,
        "grounding": one_spelling(sorted(boxed["grounding"])),
        "image_text": common_phrases(assets["statistics"]),
    }
    splits = {kind: _split(assets[f"{kind}_shards"], vocabulary) for kind, vocabulary in vocabularies.items()}
    annotations, images = _validation(assets["validation"])
    return DatasetManifest(
        name=name,
        supervisions={kind: split for kind, split in splits.items() if split.shards},
        boxed_concepts=sorted(boxed["detection"] | boxed["grounding"]),
        validation_annotations=annotations,
        validation_images=images,
        funnel=[_funnel_row(asset, tables, unit=units[asset]) for asset, tables in assets.items() if tables],
        parents={
            asset: sha256_hex(canonical_json({shard: table.manifest.digest for shard, table in tables.items()}))
            for asset, tables in assets.items()
            if tables
        },
    )


def publish_dataset(manifest: DatasetManifest, *, folder: Location) -> str | None:
    """Write ``MANIFEST.json``; an older one of other content stays beside it under its digest.

    Returns:
        What happened: "new", "changed" with the fields that differ, or that the one before was damaged; None where the same
        manifest was there.
    """
    path = folder / MANIFEST_NAME
    state = "new"
    if path.is_file():
        text, before = _before(path)
        digest = sha256_hex(canonical_json(before))
        if digest == manifest.digest:
            return None
        after = manifest.model_dump(mode="json")
        write_text_atomically(folder / (f"{digest[:16]}.json" if before else f"{MANIFEST_NAME}.damaged"), text)
        state = f"changed ({', '.join(key for key in after if after[key] != before.get(key))})"
        if not before:
            state = "made anew, the one before was damaged"
    write_text_atomically(path, manifest.model_dump_json(indent=2) + "\n")
    return state


def _before(path: Location) -> tuple[str, dict[str, Any]]:
    """The text of a manifest, and what it says: nothing where it is damaged."""
    text = path.read_bytes().decode(errors="backslashreplace")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    return text, content if isinstance(content, dict) else {}


def common_phrases(
    tables: Tables, *, max_phrases: int = MAX_CAPTION_PHRASES, min_mentions: int = MIN_MENTIONS
) -> list[str]:
    """The noun phrases of most pairs, the most frequent first and equally frequent ones in alphabetical order.

    ``tables`` are those of "statistics", none where there is no pair; ``min_mentions`` counts pairs.
    """
    phrases: list[str] = []
    for table in tables.values():  # one over all shards, which has them in this order
        counts = pq.read_table(table.file(PHRASE_COUNTS_FILE).local(), columns=["phrase", "num_pairs"])
        phrases += counts.filter(pc.field("num_pairs") >= min_mentions)["phrase"].slice(0, max_phrases).to_pylist()
    return phrases


def _split(tables: Tables, vocabulary: Iterable[str]) -> SupervisionSplit:
    """The shards that hold a sample, and their indexes."""
    files = [entry for table in tables.values() for entry in _files(table) if entry.num_rows]
    shards = [entry for entry in files if entry.path.endswith(".tar")]
    indexes = {entry.path: entry for entry in files}
    return SupervisionSplit(
        num_samples=sum(entry.num_rows for entry in shards),
        shards=shards,
        indexes=[indexes[index_name(entry.path)] for entry in shards],
        vocabulary=list(vocabulary),
    )


def _concepts(tables: Iterable[PublishedTable]) -> set[str]:
    return {text for table in tables for text in pq.read_table(table.file(CONCEPTS).local())["concept"].to_pylist()}


def _files(table: PublishedTable) -> list[FileEntry]:
    """Entries with paths relative to the data root."""
    folder = table_name(table.manifest.stage, table.manifest.fingerprint)
    return [entry.model_copy(update={"path": f"{folder}/{entry.path}"}) for entry in table.manifest.files]


def _validation(tables: Tables) -> tuple[FileEntry | None, str | None]:
    """The annotations and the folder of the images, where there is a validation set."""
    for table in tables.values():
        folder = f"{table_name(table.manifest.stage, table.manifest.fingerprint)}/{VALIDATION_IMAGES}"
        return next(entry for entry in _files(table) if entry.path.endswith(f"/{ANNOTATIONS}")), folder
    return None, None


def _funnel_row(asset: str, tables: Tables, *, unit: str) -> FunnelRow:
    manifests = [table.manifest for table in tables.values()]
    reasons = sorted({reason for manifest in manifests for reason in manifest.dropped})
    return {
        "stage": asset,
        "unit": unit,
        "rows_in": sum(manifest.rows_in for manifest in manifests),
        "rows_kept": sum(manifest.rows_kept for manifest in manifests),
        "dropped": {reason: sum(manifest.dropped.get(reason, 0) for manifest in manifests) for reason in reasons},
    }
