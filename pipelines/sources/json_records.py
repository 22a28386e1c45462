"""JSON decoding into typed records with msgspec; errors name the file, the record and the field.

Other tools write one value in several ways. What is accepted is the same for every format:

- a whole number may be written as text or as a float: 1, "1" and 1.0 are one, 1.5 and "abc" are refused;
- a number may be written as text, and ``NaN`` or ``Infinity`` as Python writes them;
- a mark such as ``iscrowd`` is a whole number (0: no), true or false, or null (no);
- a name or file name may be a number: 7 is "7". Null, a list, and a name of blanks alone are no names.

Fields that no record declares are skipped, whatever is in them.
"""

import json
import re
import reprlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from pipelines.sources.input_files import utf8_text

Record = TypeVar("Record")

_NOT_BLANK = r"[^\s_]"
_LETTERS_AND_DIGITS = r"\A[^\W_]+\Z"
_LARGEST = 2**63 - 1

WholeNumber = Annotated[int, msgspec.Meta(ge=-_LARGEST, le=_LARGEST)]
ImageNumber = Annotated[int, msgspec.Meta(ge=0, le=_LARGEST)]
ImageId = ImageNumber | Annotated[str, msgspec.Meta(pattern=_LETTERS_AND_DIGITS)]
Flag = bool | WholeNumber | None
Text = str | WholeNumber | float
Name = Annotated[str, msgspec.Meta(pattern=_NOT_BLANK)] | WholeNumber | float

_HALF = re.compile("[\ud800-\udfff]")
_WORDS = {
    "bool | int": "0 or 1",
    "int | float | str": "text",
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "object": "an object",
    "str": "text",
}
_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 80


def text_of(value: Text) -> str:
    """A `Text` or `Name` as text: "7" of 7 and of 7.0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def decode_records(
    content: bytes, decoder: msgspec.json.Decoder[Record], *, where: Path | str, expected: str
) -> Record:
    """The records of a JSON text; the decoder is not strict (``strict=False``).

    ``where`` begins an error: the file, or the file and the row; ``expected`` ends one about the file as a whole.

    Raises:
        ValueError: it is no JSON, or a field lacks or has a value of another type.
    """
    try:
        return decoder.decode(content)
    except (msgspec.DecodeError, RecursionError, ValueError):
        pass  # once more with Python's parser: it reads NaN, and knows the value to complain of
    value = _parse(content, where=where, expected=expected)
    is_broken: Callable[[str], object] = _HALF.search
    try:
        records = msgspec.convert(value, decoder.type, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(_explained(str(error), value, where=where, expected=expected)) from None
    except UnicodeEncodeError as error:
        texts, is_broken = _texts(value), error.object.__eq__
    else:
        texts = _texts(msgspec.to_builtins(records))
    for place, text in texts:
        if is_broken(text):
            raise ValueError(f"{where}: {place}: it has half of a character (a surrogate without its pair); correct it")
    return records


def _parse(content: bytes, *, where: Path | str, expected: str) -> Any:
    try:
        return json.loads(utf8_text(content, where=where), parse_int=_whole_number)
    except json.JSONDecodeError as error:
        but = str(error) if content.strip() else "it is empty"
        raise ValueError(f"{where} is not JSON: {but}; {expected}") from error
    except RecursionError:
        raise ValueError(f"{where} is nested too deeply: {expected}") from None


def _whole_number(digits: str) -> int | float:
    """A float where no field could hold the number: Python reads no more than 4,300 digits of a whole one."""
    return int(digits) if len(digits) <= len(str(_LARGEST)) else float(digits)


def _explained(message: str, value: Any, *, where: Path | str, expected: str) -> str:
    """Msgspec's "Expected `int`, got `str` - at `$.images[0].id`" in words, with the value."""
    what, _, path = message.partition(" - at `$")
    path = path.removesuffix("`")
    place = f"{where}: {path.removeprefix('.')}" if path else str(where)
    hint = f": {expected}" if "[" not in path else ""
    if (field := what.removeprefix("Object missing required field ")) != what:
        return f"{place} has no '{field.strip('`')}'{hint}"
    for key, index in re.findall(r"\.([^.\[\]]+)|\[(\d+)\]", path):
        value = value[key] if key else value[int(index)]
    what = (
        what.partition(", got ")[0].replace("Expected", "expected").replace("Number out of range", "expected `float`")
    )
    what = what.replace(f"matching regex {_NOT_BLANK!r}", "that is not blank")
    what = what.replace(f"matching regex {_LETTERS_AND_DIGITS!r}", "of letters and digits")
    words = re.sub(r"`([^`]+)`", lambda types: _in_words(types[1]), what)
    return f"{place}: {words}, got {_repr.repr(value)}{hint}"


def _in_words(types: str) -> str:
    names = types.replace(" | null", "").replace("null | ", "")
    return _WORDS.get(names) or " or ".join(_WORDS.get(name, name) for name in names.split(" | "))


def _texts(value: Any) -> Iterator[tuple[str, str]]:
    """Every text of plain values with its place."""
    waiting = [("", value)]
    while waiting:
        place, item = waiting.pop()
        if isinstance(item, str):
            yield place, item
        elif isinstance(item, dict):
            waiting += [(f"{place}.{key}".removeprefix("."), inner) for key, inner in item.items()]
        elif isinstance(item, list | tuple):
            waiting += [(f"{place}[{i}]", inner) for i, inner in enumerate(item)]
