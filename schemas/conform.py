"""Schema checks of Arrow tables, once where a package takes them, with an error that a person can act on."""

import pyarrow as pa
import pyarrow.compute as pc


def conform(table: pa.Table, schema: pa.Schema, *, where: str) -> pa.Table:
    """Return ``table`` with exactly the columns of ``schema``, in its order and types; others are left out.

    Raises:
        ValueError: a column is missing, cannot be cast, or holds nulls where the schema allows none.
    """
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise ValueError(f"{where}: missing column(s) {missing}; it has {table.column_names}")
    columns = []
    for field in schema:
        column = table.column(field.name)
        try:
            column = column.cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ValueError(
                f"{where}: column {field.name!r} is {column.type}, wanted {field.type}: {error}"
            ) from error
        if not field.nullable and column.null_count:
            raise ValueError(f"{where}: column {field.name!r} has {column.null_count} null(s); it may have none")
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=schema)


def text_or_null(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column where it is text, else nulls: a number, a list or an image is no caption.

    Bytes are text where they are UTF-8, as in Parquet files without that mark (Spark's and Impala's older ones); the zero
    bytes that fill up a fixed width are left out. A value that is not UTF-8, or holds a NUL character, is null.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if any(is_text(kind) for is_text in _TEXT_TYPES):
        try:
            text = column.cast(pa.string())
            text.validate(full=True)  # Parquet's mark says UTF-8, nobody checked
            if not pc.any(pc.match_substring(text, "\0")).as_py():
                return text
        except pa.ArrowInvalid:
            pass
    elif not any(is_bytes(kind) for is_bytes in _BYTES_TYPES):
        return pa.chunked_array([pa.nulls(len(column), pa.string())])
    values = column.cast(kind).cast(pa.binary()).to_pylist()
    if pa.types.is_fixed_size_binary(kind):
        values = [None if value is None else value.rstrip(b"\0") for value in values]
    return pa.chunked_array([pa.array(map(_utf8_or_none, values), pa.string())])


_TEXT_TYPES = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_BYTES_TYPES = (
    pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary
)  # fmt: skip


def _utf8_or_none(value: bytes | None) -> str | None:
    try:
        return None if value is None or b"\0" in value else value.decode()
    except UnicodeDecodeError:
        return None
