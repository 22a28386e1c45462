"""Names, keys, captions and paths with control characters, escape sequences and markup, at every place that prints them."""

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from detclipv2.terminal import InertConsole
from pipelines.inspect import data_commands
from ray_jobs.build_dataset import funnel_table
from ray_jobs.command_line import run_cli
from ray_jobs.progress import Status
from schemas.manifest import DatasetManifest
from tests.detclipv2.test_terminal import HOSTILE, MARKUP, is_inert
from tests.ray_jobs.small_dataset import sample, write_dataset

ALL = HOSTILE | MARKUP


@dataclass(frozen=True)
class Nothing:
    """No option."""


@pytest.fixture
def said_by(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Status and output of a command."""

    def call(main: Callable[[], None]) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["command.py"])
        code = 0
        try:
            run_cli(Nothing, lambda _: main())
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capfd.readouterr()
        return code, said.out + said.err

    return call


@pytest.mark.parametrize("name", ALL.values(), ids=ALL)
def test_an_error_is_one_inert_line(name: str, said_by: Callable[..., tuple[int, str]]) -> None:
    def fails() -> None:
        raise ValueError(f"no file {name}: give another")

    code, said = said_by(fails)

    assert code == 2
    assert is_inert(said)
    assert said.count("\n") == 1
    assert name not in MARKUP.values() or name in said


# A manifest, which is UTF-8, holds no surrogate.
@pytest.mark.parametrize("name", [name for name in ALL.values() if name != "\ud800"])
def test_lines_and_tables_of_a_build_and_a_training(name: str, said_by: Callable[..., tuple[int, str]]) -> None:
    row = {"stage": "images", "unit": name, "rows_in": 5, "rows_kept": 3, "dropped": {f"r{name}": 2}}
    manifest = DatasetManifest(name="n", supervisions={}, boxed_concepts=[], funnel=[row])

    def prints() -> None:
        console = InertConsole(width=200)
        console.print(funnel_table(manifest))
        console.print(f"note: {name}", highlight=False, soft_wrap=True)
        console.print(Status(losses={f"loss/{name}": 1.0}).words(), highlight=False)
        print(f"{name}: 3 samples")

    code, said = said_by(prints)

    assert code == 0
    assert is_inert(said)


@pytest.fixture(scope="module")
def hostile_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset whose concepts and drop reasons are all hostile, less what no tar, JSON or column can hold."""
    names = [name for name in ALL.values() if name != "\ud800"]
    samples = [sample("detection", [f"<script>alert(1)</script>{name}"], boxes=1) for name in names]
    funnel = [
        {"stage": "detection_shards", "unit": f"boxes{name}", "rows_in": 3, "rows_kept": 1, "dropped": {f"r{name}": 2}}
        for name in names
    ]
    return write_dataset(tmp_path_factory.mktemp("hostile"), samples, funnel=funnel)


def test_verify(hostile_dataset: Path, said_by: Callable[..., tuple[int, str]]) -> None:
    code, said = said_by(lambda: data_commands.verify(data_commands.Verify(dataset=hostile_dataset)))  # type: ignore[arg-type]

    assert code in (0, 2)
    assert is_inert(said)


def test_stats_and_its_page(hostile_dataset: Path, tmp_path: Path, said_by: Callable[..., tuple[int, str]]) -> None:
    out = tmp_path / "page.html"

    code, said = said_by(lambda: data_commands.stats(data_commands.Stats(dataset=hostile_dataset, out=out)))  # type: ignore[arg-type]

    assert code == 0, said
    assert is_inert(said)
    assert "<script>alert" not in out.read_text()


def test_a_table_without_rich_markup_keeps_its_text() -> None:
    said = io.StringIO()
    row = {"stage": "[red]a[/]", "unit": "[/]", "rows_in": 1, "rows_kept": 1, "dropped": {"[bold]": 1}}
    manifest = DatasetManifest(name="n", supervisions={}, boxed_concepts=[], funnel=[row])

    InertConsole(file=said, width=150).print(funnel_table(replace_name(manifest, "[/x]")))

    for text in ("[red]a[/]", "[bold] 1", "dataset [/x]"):
        assert text in said.getvalue()


def replace_name(manifest: DatasetManifest, name: str) -> DatasetManifest:
    return manifest.model_copy(update={"name": name})
