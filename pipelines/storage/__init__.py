"""The data root: a local folder, or a prefix of an object store that fsspec knows (``s3://bucket/prefix``, ``gs://...``).

Stages always write into a local folder; publishing moves it to its final name, or uploads it with the manifest last.
"""

from pipelines.storage.file_cache import fetch
from pipelines.storage.locks import locked
from pipelines.storage.parquet import (
    DROPPED,
    KEPT,
    count_reasons,
    format_counts,
    split,
    write_parquet,
    write_split,
)
from pipelines.storage.roots import (
    DataRoot,
    Location,
    data_root,
    is_local,
    local_folder,
    sha256_file,
    write_text_atomically,
)
from pipelines.storage.table_store import (
    NUM_CONCURRENT,
    WHOLE,
    PublishedTable,
    TableFile,
    Written,
    kept_files,
    read_table,
    read_tables,
    remove_table,
    table_folder,
    table_name,
    verify,
    verify_content,
)

__all__ = [
    "DROPPED",
    "KEPT",
    "NUM_CONCURRENT",
    "WHOLE",
    "DataRoot",
    "Location",
    "PublishedTable",
    "TableFile",
    "Written",
    "count_reasons",
    "data_root",
    "fetch",
    "format_counts",
    "is_local",
    "kept_files",
    "local_folder",
    "locked",
    "read_table",
    "read_tables",
    "remove_table",
    "sha256_file",
    "split",
    "table_folder",
    "table_name",
    "verify",
    "verify_content",
    "write_parquet",
    "write_split",
    "write_text_atomically",
]
