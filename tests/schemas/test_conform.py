import pyarrow as pa
import pytest

from schemas.conform import conform, text_or_null

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


GOOD, LATIN_1 = "été".encode(), b"\xe9t\xe9"


@pytest.mark.parametrize("type_", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(5)])
def test_bytes_are_text_where_they_are_utf8(type_: pa.DataType) -> None:
    width = 5 if pa.types.is_fixed_size_binary(type_) else 0
    values = [None if value is None else value.ljust(width, b"\0") for value in (GOOD, None, LATIN_1)]
    column = pa.chunked_array([pa.array(values, type_), pa.array([], type_)])
    assert text_or_null(column).to_pylist() == ["été", None, None]
    if type_ != pa.binary_view():
        assert text_or_null(column.dictionary_encode()).to_pylist() == ["été", None, None]


def test_bytes_that_parquet_calls_utf8_are_looked_at() -> None:
    content = GOOD + LATIN_1 + b"a\0"
    offsets = pa.array([0, len(GOOD), len(GOOD) + len(LATIN_1), len(content)], pa.int32())
    column = pa.StringArray.from_buffers(3, offsets.buffers()[1], pa.py_buffer(content))
    assert text_or_null(pa.chunked_array([column])).to_pylist() == ["été", None, None]


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string(), pa.string_view()])
def test_text_of_every_type(type_: pa.DataType) -> None:
    column = pa.chunked_array([pa.array(["été", None], type_)])
    assert text_or_null(column).type == pa.string()
    assert text_or_null(column).to_pylist() == ["été", None]


@pytest.mark.parametrize("values", [[3, None], [1.5, None], [["a"], None], [True, None], [None, None]])
def test_what_is_no_text_is_null(values: list[object]) -> None:
    assert text_or_null(pa.chunked_array([pa.array(values)])).to_pylist() == [None, None]
