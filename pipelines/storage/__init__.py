"""Storage of tables below a data root: a local folder, or a prefix of an object store."""

# ruff: noqa: F401  # the names that other packages import from here

from pipelines.storage.file_cache import fetch
from pipelines.storage.locks import HeldError, held, locked
from pipelines.storage.parquet import DROPPED, KEPT, count_reasons, format_counts, split, write_parquet, write_split
from pipelines.storage.roots import DataRoot, Location, data_root, local_folder, sha256_file, write_text_atomically
from pipelines.storage.table_store import (
    NUM_CONCURRENT,
    WHOLE,
    PublishedTable,
    TableFile,
    Written,
    kept_files,
    read_table,
    read_tables,
    table_name,
    verify,
    verify_content,
)
