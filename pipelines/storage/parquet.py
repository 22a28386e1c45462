"""Parquet files with the same bytes for the same rows, and the split of rows by drop reason."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.storage.table_store import DROPPED, KEPT, Written
from schemas.conform import conform
from schemas.tables import DROP_REASON, with_drop_reason


def write_split(table: pa.Table, folder: Path, *, schema: pa.Schema, where: str) -> Written:
    """Write rows of a stage's ``schema`` with ``drop_reason`` as kept.parquet and dropped.parquet; errors name ``where``."""
    kept, dropped = split(table, schema=schema, where=where)
    write_parquet(kept, folder / KEPT)
    write_parquet(dropped, folder / DROPPED)
    return Written(
        rows_in=table.num_rows,
        rows_kept=kept.num_rows,
        dropped=count_reasons(dropped),
        num_rows={KEPT: kept.num_rows, DROPPED: dropped.num_rows},
    )


def split(table: pa.Table, *, schema: pa.Schema, where: str) -> tuple[pa.Table, pa.Table]:
    """(rows without a drop reason, with exactly ``schema``; rows with one, with the reason last)."""
    is_kept = pc.is_null(table.column(DROP_REASON.name))
    dropped = conform(table.filter(pc.invert(is_kept)), with_drop_reason(schema), where=where)
    return conform(table.filter(is_kept), schema, where=where), dropped


def count_reasons(dropped: pa.Table) -> dict[str, int]:
    """Rows by drop reason."""
    counts = pc.value_counts(dropped.column(DROP_REASON.name))
    return {count["values"].as_py(): count["counts"].as_py() for count in counts}


def format_counts(counts: Mapping[str, int]) -> str:
    """``http_404 1,136, dns 48``: the largest first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} {count:,}" for reason, count in ordered)


def write_parquet(table: pa.Table, path: Path) -> None:
    """Equal tables give equal files: no schema metadata, one chunking, fixed compression."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(None).combine_chunks(), path, compression="zstd", compression_level=3)
