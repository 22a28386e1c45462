"""Schema checks of Arrow tables, once where a package takes them, with an error that a person can act on."""

import pyarrow as pa


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
    """The column where it is text, else nulls: a number, a list or an image is no caption."""
    value_type = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_string(value_type) or pa.types.is_large_string(value_type) or pa.types.is_string_view(value_type):
        return column.cast(pa.string())
    return pa.chunked_array([pa.nulls(len(column), pa.string())])
