"""What is printed is inert, whoever prints it."""

import io
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from detclipv2.terminal import InertConsole, InertStream, make_output_inert, printable, printable_json

HOSTILE = {
    "colour": "\x1b[31mred",
    "title": "\x1b]0;owned\x07",
    "erase": "\x1b[2J\x1b[H",
    "hidden": "\x1b[8mrm -rf",
    "c1_csi": "\x9b31m",
    "c1_osc": "\x9d0;x\x9c",
    "return": "good\rbad",
    "backspace": "a\b\b\bz",
    "bell": "\a",
    "null": "a\0b",
    "delete": "a\x7f",
    "form_feed": "a\fb\vc",
    "override": "\u202etxt.exe",
    "isolate": "\u2066a\u2069",
    "separator": "a\u2028b\u2029c",
    "surrogate": "\ud800",
    "dcs": "\x1bP+q\x1b\\",
}
MARKUP = {
    "open": "[red]",
    "close": "[/]",
    "wrong_close": "[bold]x[/nope]",
    "link": "[link=http://a.test]x",
    "emoji": ":bomb:",
}


def is_inert(text: str) -> bool:
    return not any(
        (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 or c in "\u2028\u2029" or 0x202A <= ord(c) <= 0x202E
        or 0x2066 <= ord(c) <= 0x2069 or 0xD800 <= ord(c) < 0xE000
        for c in text
    )  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_print_is_inert(text: str) -> None:
    under = io.StringIO()
    print("name:", text, file=InertStream(under))  # type: ignore[arg-type]

    assert is_inert(under.getvalue())
    assert under.getvalue() == f"name: {printable(text)}\n"


@pytest.mark.parametrize("text", [*HOSTILE.values(), *MARKUP.values()], ids=[*HOSTILE, *MARKUP])
def test_tables_and_lines_of_rich_are_inert(text: str) -> None:
    under = io.StringIO()
    console = InertConsole(file=under, width=100)
    table = Table("name", text, title=text, title_justify="left")
    table.add_row("row", text)

    console.print(table)
    console.print(f"note: {text}", highlight=False, soft_wrap=True)
    console.rule(text)

    said = under.getvalue()
    assert is_inert(said)
    if text in MARKUP.values():
        assert f"note: {text}" in said


def test_rich_still_draws_in_colours() -> None:
    under = io.StringIO()
    console = InertConsole(file=InertStream(under), force_terminal=True, color_system="standard")

    console.print("plain \x1b[2J", style="red", highlight=False)

    assert under.getvalue() == "\x1b[31mplain \ufffd[2J\x1b[0m\n"


@given(st.text())
def test_printable_is_inert_and_keeps_all_else(text: str) -> None:
    said = printable(text)

    assert is_inert(said)
    assert len(said) == len(text)
    assert all(a == b or not is_inert(a) for a, b in zip(text, said, strict=True))


@given(st.text(st.characters(exclude_categories=[])))
def test_json_is_inert_and_the_same(text: str) -> None:
    said = printable_json(json.dumps({"name": text}, ensure_ascii=False))

    assert is_inert(said)
    assert json.loads(said) == {"name": text}


def test_progress_bars_of_libraries_are_redrawn() -> None:
    under = io.StringIO()
    stream = InertStream(under)
    stream.writelines(["\rfetching 10%", "\x1b[A", "\n"])

    assert under.getvalue() == "\rfetching 10%\x1b[A\n"


def test_a_character_that_the_stream_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    under = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print("\x1bmüde", file=InertStream(under))  # type: ignore[arg-type]
    under.flush()

    assert under.buffer.getvalue() == b"?m?de\n"  # type: ignore[attr-defined]


def test_a_process_is_made_inert_once(monkeypatch: pytest.MonkeyPatch) -> None:
    under = io.StringIO()
    monkeypatch.setattr(sys, "stdout", under)
    monkeypatch.setattr(sys, "stderr", under)
    make_output_inert()
    make_output_inert()

    print("\x1b[2J", file=sys.stderr)
    assert sys.stdout.rich_proxied_file is under  # type: ignore[attr-defined]
    assert under.getvalue() == "\ufffd[2J\n"
