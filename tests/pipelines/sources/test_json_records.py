"""Records of JSON: the one rule for values of all formats, and errors that name file, record and field."""

import json
import re
from typing import Any

import msgspec
import pytest

from pipelines.sources.json_records import Flag, ImageId, Name, WholeNumber, decode_records, text_of


class Item(msgspec.Struct, kw_only=True):
    number: WholeNumber = 0
    numbers: list[float] = []
    flag: Flag = None
    name: Name = "name"
    image: ImageId = 0


class File(msgspec.Struct):
    items: list[Item]


DECODER = msgspec.json.Decoder(File, strict=False)


def decode(content: bytes) -> File:
    return decode_records(content, DECODER, where="a.json", expected="such a file has items")


def item(**fields: Any) -> Item:
    return decode(json.dumps({"items": [fields]}).encode()).items[0]


def test_a_whole_number_may_be_text_or_a_float() -> None:
    assert [item(number=value).number for value in (1, "1", 1.0, "1.0", -1)] == [1, 1, 1, 1, -1]
    assert item(numbers=[1, "2", 2.5, "3.5"]).numbers == [1, 2, 2.5, 3.5]


def test_a_flag_is_zero_or_one_in_any_spelling() -> None:
    assert not any(item(flag=value).flag for value in (0, "0", 0.0, False, "false", None))
    assert all(item(flag=value).flag for value in (1, "1", 1.0, True, "true", 2))


def test_a_name_may_be_a_number() -> None:
    names = [text_of(item(name=value).name) for value in (7, "7", "007", 7.0, 1.5, "null", "true")]
    assert names == ["7", "7", "007", "7", "1.5", "null", "true"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"number": 1.5}, "items[0].number: expected a whole number, got 1.5"),
        ({"number": "abc"}, "items[0].number: expected a whole number, got 'abc'"),
        ({"number": None}, "items[0].number: expected a whole number, got None"),
        ({"number": [1, 2]}, "items[0].number: expected a whole number, got [1, 2]"),
        ({"number": True}, "items[0].number: expected a whole number, got True"),
        ({"number": float("nan")}, "items[0].number: expected a whole number, got nan"),
        ({"number": 10**30}, "items[0].number: expected a whole number, got 1e+30"),
        ({"numbers": 3}, "items[0].numbers: expected a list, got 3"),
        ({"numbers": [1, {}]}, "items[0].numbers[1]: expected a number, got {}"),
        ({"flag": "no"}, "items[0].flag: expected 0 or 1, got 'no'"),
        ({"name": None}, "items[0].name: expected text, got None"),
        ({"name": ["a"]}, "items[0].name: expected text, got ['a']"),
        ({"name": " _ "}, "items[0].name: expected text that is not blank, got ' _ '"),
        ({"name": ""}, "items[0].name: expected text that is not blank, got ''"),
        ({"name": "a\ud800"}, "items[0].name: it has half of a character (a surrogate without its pair); correct it"),
        (
            {"number": "\ud800"},
            "items[0].number: it has half of a character (a surrogate without its pair); correct it",
        ),
        ({"image": "a/b"}, "items[0].image: expected text of letters and digits, got 'a/b'"),
        ({"image": -1}, "items[0].image: expected a whole number >= 0, got -1"),
    ],
)
def test_errors_name_file_record_and_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^a.json: {re.escape(message)}$"):
        item(**fields)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.json is not JSON: it is empty; such a file has items"),
        (b'{"items": [', "a.json is not JSON: Expecting value: line 1 column 12 (char 11); such a file has items"),
        (b"[1]", "a.json: expected an object, got [1]: such a file has items"),
        (b"{}", "a.json has no 'items': such a file has items"),
        (b'{"items": {"a": 1}}', "a.json: items: expected a list, got {'a': 1}: such a file has items"),
        (b'[\n"caf\xe9"]', "a.json is not UTF-8: byte 0xe9 in row 2, after '\"caf'; save it as UTF-8"),
        (b"[" * 100_000, "a.json is nested too deeply: such a file has items"),
    ],
)  # fmt: skip
def test_errors_of_the_whole_file(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        decode(content)


def test_nan_as_python_writes_it_is_a_number() -> None:
    (read,) = decode(b'{"items": [{"numbers": [NaN, -Infinity, 1e400, 2], "number": "7", "area": NaN}]}').items
    assert str(read.numbers) == "[nan, -inf, inf, 2.0]"
    assert read.number == 7
    whole = b"1" * 5000
    assert decode(b'{"items": [{"numbers": [' + whole + b'], "area": ' + whole + b"}]}").items[0].numbers == [
        float("inf")
    ]


def test_long_values_are_shortened() -> None:
    with pytest.raises(ValueError, match="got 'xxx") as raised:
        item(number="x" * 10_000)
    assert len(str(raised.value)) < 200
