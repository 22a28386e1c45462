"""Tables are checked where they cross a border, once, with an error that a person can act on."""

import pyarrow as pa


def conform(table: pa.Table, schema: pa.Schema, *, where: str) -> pa.Table:
    """Return ``table`` with exactly the columns of ``schema``, in its order and types.

    Args:
        table: any table.
        schema: what the border asks for; columns of ``table`` that it does not name are left out.
        where: the file or stage to name in an error.

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
