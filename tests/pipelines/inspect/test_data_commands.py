"""``detclip data`` as a person meets it."""

import json
import re
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from PIL import Image

import detclipv2.cli
from pipelines.inspect.built_dataset import BuiltDataset
from pipelines.inspect.data_commands import commands
from tests.pipelines.inspect.conftest import build
from tests.pipelines.inspect.conftest import dataset as dataset

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run ``detclip data`` with the entry point that pyproject.toml declares."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    declared = project["entry-points"]["detclip.commands"]["data"]
    entry_point = EntryPoint(name="data", value=declared, group="detclip.commands")
    monkeypatch.setattr(detclipv2.cli, "entry_points", lambda **_: (entry_point,))

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["detclip", "data", *map(str, arguments)])
        try:
            detclipv2.cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_every_command_is_there(run) -> None:
    code, out, _ = run("--help")

    assert code == 0
    assert all(re.search(rf"\b{name}\b", out) for name in ("verify", "show", "stats", "gc"))
    assert set(commands) == {"verify", "show", "stats", "gc"}


def test_verify_a_whole_dataset(run, dataset: BuiltDataset) -> None:
    for location in (dataset.folder, dataset.folder / "MANIFEST.json"):
        assert run("verify", location) == (0, "small: 4 shards are whole: 3 detection, 3 image_text\n", "")


def test_verify_counts_captions_where_an_image_has_several(run, captions_dataset: BuiltDataset) -> None:
    whole = "mirror: 1 shards are whole: 2 image_text with 4 captions\n"
    code, printed, _ = run("verify", captions_dataset.folder)
    assert (code, printed.endswith(whole)) == (0, True)


def test_verify_a_dataset_without_a_box(run, dataset: BuiltDataset) -> None:
    path = dataset.folder / "MANIFEST.json"
    manifest = json.loads(path.read_text())
    for row in manifest["funnel"]:
        if row["stage"] == "detection_shards":
            row |= {"rows_in": 12, "rows_kept": 0, "dropped": {"image_missing": 12}}
    path.write_text(json.dumps(manifest))

    line = "small: detection has no box: none of 12 could be used (image_missing 12): fix the annotations or --images, "
    assert run("verify", dataset.folder) == (2, f"{line}and build again\n", "")


def test_verify_a_damaged_dataset_says_what_and_how_to_fix_it(run, dataset: BuiltDataset) -> None:
    shard = dataset.manifest.supervisions["detection"].shards[1].path
    (dataset.root / shard).unlink()
    code, out, _ = run("verify", dataset.folder)

    folder = (dataset.root / shard).parent
    assert code == 2
    assert out.splitlines() == [
        f"{shard}: 1 problem(s)",
        "  is missing",
        "1 damaged; build the dataset again: what is damaged or missing is made anew:",
        f"  {folder}",
    ]


def test_show(run, dataset: BuiltDataset, tmp_path: Path) -> None:
    out = tmp_path / "new" / "sheet.png"
    assert run("show", dataset.folder, "--num", "2", "--out", out) == (
        0,
        f"{out}: small: 2 of 3 image_text samples\n",
        "",
    )
    assert Image.open(out).width > 600
    dropped = run("show", dataset.folder, "--dropped", "http_404", "--out", out)
    assert dropped == (0, f"{out}: small: 1 of 1 pairs dropped as http_404\n", "")


def test_stats(run, dataset: BuiltDataset, tmp_path: Path) -> None:
    out = tmp_path / "funnel.html"
    code, printed, _ = run("stats", dataset.folder, "--out", out)

    assert code == 0
    assert "source squares" in printed and printed.endswith(f"page: {out}\n")
    assert out.read_text().startswith("<!doctype html>")


def test_gc(run, dataset: BuiltDataset) -> None:
    build(dataset.root, version=2)
    code, listed, _ = run("gc", "--root", dataset.root)

    assert code == 0
    assert len(listed.splitlines()) == 7  # three assets of two shards, and the sum
    assert listed.splitlines()[-1].endswith("in all could be removed: run again with --delete")
    removed = run("gc", "--root", dataset.root, "--delete")[1]
    assert removed.splitlines()[-1].endswith("in all removed")
    assert run("gc", "--root", dataset.root)[1] == "       0 B  in all could be removed: run again with --delete\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "nowhere"], "error: no dataset at .*/nowhere/MANIFEST.json: build one with"),
        (
            ["show", "data", "--out", "sheet.gif"],
            "error: --out sheet.gif: choose a name that ends in .jpg, .png or .webp",
        ),
        (["show", "data", "--num", "0"], "error: --num 0: show at least one"),
        (["gc", "--root", "nowhere"], "error: .*/nowhere holds no dataset: is it a data root"),
    ],
)
def test_errors_are_one_line(run, arguments: list[str], message: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)

    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert re.match(message, err), err


@pytest.mark.parametrize(
    "found", [(), (EntryPoint(name="data", value="no_such_package.cli:commands", group="detclip.commands"),)]
)
def test_the_wheel_alone_says_what_it_lacks(found, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(detclipv2.cli, "entry_points", lambda **_: found)
    monkeypatch.setattr("sys.argv", ["detclip", "data", "verify", "x"])

    with pytest.raises(SystemExit) as stop:
        detclipv2.cli.main()
    assert stop.value.code == 2
    assert re.match(
        r"error: detclip data comes with the repository, which this installation lacks",
        capsys.readouterr().err,
    )


@pytest.mark.slow
def test_in_an_object_store(run, bucket, tmp_path: Path) -> None:
    dataset = build(bucket / "data")
    location = f"s3://{bucket.name or bucket.path.strip('/')}/data/datasets/small"

    assert run("verify", location)[:2] == (0, "small: 4 shards are whole: 3 detection, 3 image_text\n")
    assert run("show", location, "--out", tmp_path / "s.jpg")[0] == 0
    assert run("show", location, "--dropped", "caption_too_short", "--out", tmp_path / "s.jpg")[0] == 0
    assert run("stats", location, "--out", tmp_path / "f.html")[0] == 0
    assert "copies of remote files on this machine" in run("gc", "--root", f"{location}/../..".split("/datasets")[0])[1]
    (dataset.root / dataset.manifest.supervisions["image_text"].shards[0].path).unlink()
    code, out, _ = run("verify", location)
    assert code == 2
    assert "  is missing" in out
    assert json.loads((dataset.folder / "MANIFEST.json").read_text())["name"] == "small"
