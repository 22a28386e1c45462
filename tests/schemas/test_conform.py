import pyarrow as pa
import pytest

from schemas.conform import conform

SCHEMA = pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("width", pa.int32())])


def test_orders_casts_and_leaves_out_what_is_not_asked_for() -> None:
    table = pa.table({"extra": [1], "width": pa.array([7], pa.int64()), "key": ["a"]})
    assert conform(table, SCHEMA, where="here").equals(pa.table({"key": ["a"], "width": [7]}, schema=SCHEMA))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"key": ["a"]}), r"pairs.csv: missing column\(s\) \['width'\]; it has \['key'\]"),
        (pa.table({"key": ["a"], "width": ["wide"]}), r"pairs.csv: column 'width' is string, wanted int32"),
        (pa.table({"key": ["a", None], "width": [1, 2]}), r"pairs.csv: column 'key' has 1 null\(s\)"),
    ],
)
def test_errors_name_the_place_and_the_column(table: pa.Table, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        conform(table, SCHEMA, where="pairs.csv")
