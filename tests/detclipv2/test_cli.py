import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from PIL import Image

from detclipv2 import cli
from detclipv2.cli import main, newest_model
from detclipv2.config import ModelConfig
from detclipv2.drawing import ORDINARY
from detclipv2.hub import save_pretrained
from detclipv2.inference import Predictor
from detclipv2.models.detector import DetCLIPv2
from pipelines.storage import roots
from tests.detclipv2.test_terminal import is_inert


@dataclass(frozen=True, kw_only=True)
class Outcome:
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run ``detclip`` with these arguments."""
    monkeypatch.setenv("DETCLIPV2_CACHE", str(tmp_path / "cache"))

    def call(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr("sys.argv", ["detclip", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Outcome(code=code, out=captured.out, err=captured.err)

    return call


@pytest.fixture
def model(tiny_config: ModelConfig, tiny_detector: Callable[..., DetCLIPv2], tmp_path: Path) -> Path:
    """Every box is its anchor."""
    detector = tiny_detector()
    torch.nn.init.zeros_(detector.head.output.box.weight)
    predictor = Predictor(detector, image_size=64)
    predictor.set_vocabulary(["dog", "owl"])
    folder = tmp_path / "models" / "tiny"
    save_pretrained(
        folder, detector, config=tiny_config, image_size=64, data_digest="d", vocabulary=predictor.vocabulary
    )
    return folder


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.effect_noise((120, 80), 80).save(path)
    return path


def test_json_to_the_terminal(run: Run, model: Path, photo: Path) -> None:
    found = run(
        "predict", photo, "--names", "dog", "red apple", "--model", model, "--threshold", "0", "--max-detections", "5"
    )

    assert (found.code, found.err) == (0, "")
    printed = json.loads(found.out)
    assert printed["image"] == str(photo)
    assert 0 < len(printed["detections"]) <= 5
    scores = [row["score"] for row in printed["detections"]]
    assert scores == sorted(scores, reverse=True)
    for row in printed["detections"]:
        assert row["name"] in ("dog", "red apple")
        x1, y1, x2, y2 = row["box_xyxy"]
        assert 0 <= x1 < x2 <= 120
        assert 0 <= y1 < y2 <= 80


def test_json_to_a_file(run: Run, model: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "found.json"
    found = run("predict", photo, "--names", "dog", "--model", model, "--threshold", "0", "--out", out)

    rows = json.loads(out.read_text())["detections"]
    assert found == Outcome(code=0, out=f"{out}: {len(rows)} x dog\n", err="")
    assert rows


def test_names_from_a_file_or_the_models_own(run: Run, model: Path, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("guitar\n")
    (tmp_path / "lvis.json").write_text(json.dumps({"categories": [{"id": 1, "name": "traffic_light"}]}))

    def names(*arguments: str | Path) -> set[str]:
        found = run("predict", photo, "--model", model, "--threshold", "0", *arguments)
        assert (found.code, found.err) == (0, "")
        return {row["name"] for row in json.loads(found.out)["detections"]}

    assert names("--vocabulary", tmp_path / "names.txt") == {"guitar"}
    assert list((tmp_path / "cache" / "texts").rglob("*.safetensors"))
    assert names("--vocabulary", tmp_path / "lvis.json") == {"traffic light"}
    assert names() <= {"dog", "owl"}
    found = run("predict", photo, "--model", model, "--threshold", "0.99", "--out", tmp_path / "none.json")
    assert found == Outcome(code=0, out=f"{tmp_path}/none.json: nothing found\n", err="")


def test_a_repeated_name_counts_once_and_is_told(run: Run, model: Path, photo: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.csv"
    names.write_text("name\ndog\nowl\nDog\nred_apple\nred apple\n")
    found = run("predict", photo, "--model", model, "--threshold", "0", "--vocabulary", names)

    assert found.code == 0
    assert found.err == f"{names}: 2 of 5 names are repeated: Dog, red apple\n"
    assert {row["name"] for row in json.loads(found.out)["detections"]} <= {"dog", "owl", "red apple"}


def test_transparent_and_16_bit_photos(run: Run, model: Path, tmp_path: Path) -> None:
    """What is drawn on is what a viewer shows."""
    Image.new("RGBA", (600, 500), (0, 200, 0, 0)).save(tmp_path / "clear.png")
    Image.fromarray(np.full((500, 600), 34_000, np.uint16)).save(tmp_path / "grey.png")
    for name, value in (("clear", 255), ("grey", 132)):
        out = tmp_path / f"{name}_out.png"
        run("predict", tmp_path / f"{name}.png", "--model", model, "--threshold", "1", "--out", out)
        assert np.unique(np.asarray(Image.open(out))).tolist() == [value]


def test_max_detections_counts_objects(run: Run, model: Path, photo: Path, tmp_path: Path) -> None:
    many = [f"thing {index}" for index in range(50)]  # all are found in every place
    found = run("predict", photo, "--names", *many, "--model", model, "--threshold", "0", "--max-detections", "5")

    boxes = [tuple(row["box_xyxy"]) for row in json.loads(found.out)["detections"]]
    assert len(set(boxes)) == 5


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_a_drawn_image(run: Run, model: Path, photo: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"found{suffix}"
    found = run("predict", photo, "--names", "dog", "--model", model, "--threshold", "0", "--out", out)

    assert found.code == 0
    drawn = Image.open(out)
    assert drawn.size == (480, 320)  # enlarged four times, so that labels can be read
    distances = np.abs(np.asarray(drawn.convert("RGB"), dtype=int) - ORDINARY).max(axis=-1)
    assert distances.min() < 40


def test_nothing_is_shown_below_the_threshold(run: Run, model: Path, photo: Path) -> None:
    found = run("predict", photo, "--names", "dog", "--model", model, "--threshold", "0.99")

    assert json.loads(found.out)["detections"] == []


def test_a_rotated_photo_is_drawn_upright(run: Run, model: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.effect_noise((600, 500), 80).save(tmp_path / "sideways.jpg", exif=exif)

    run("predict", tmp_path / "sideways.jpg", "--names", "dog", "--model", model, "--out", tmp_path / "out.png")

    assert Image.open(tmp_path / "out.png").size == (500, 600)


def test_the_newest_model_is_taken(
    run: Run, model: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = tmp_path / "outputs" / "models" / "older"
    older.parent.mkdir(parents=True)
    model.rename(older)
    (older.parent / "newer").mkdir()
    (older.parent / "newer" / "config.json").write_text("{}")
    os.utime(older / "config.json", (1, 1))
    monkeypatch.chdir(tmp_path)

    assert newest_model(Path("outputs/models")).name == "newer"
    assert "layout None" in run("predict", photo, "--names", "dog").err
    os.utime(older / "config.json", (2**32, 2**32))
    assert run("predict", photo, "--names", "dog").code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.png", "--names", "dog"], "error: nothing.png cannot be read as an image: .*No such file"),
        (["words.txt", "--names", "dog"], "error: words.txt cannot be read as an image: no image of a known format"),
        ([".", "--names", "dog"], "error: . cannot be read as an image: Is a directory"),
        (["cut.jpg", "--names", "dog"], "error: cut.jpg cannot be read as an image: image file is truncated"),
        (["photo.png", "--names", "dog", "--threshold", "1.5"], "error: --threshold 1.5: scores are from 0 to 1"),
        (["photo.png", "--names", "dog", "--threshold", "nan"], "error: --threshold nan: scores are from 0 to 1"),
        (["photo.png", "--names", "dog", "--max-detections", "0"], "error: --max-detections 0: at least 1"),
        (
            ["photo.png", "--names", "dog", "--out", "words.txt/found.json"],
            "error: --out words.txt/found.json: its folder cannot be made: ",
        ),
        (["photo.png", "--names", "dog", "--out", "folder.json"], "error: --out folder.json cannot be written: name a"),
        (
            ["photo.png", "--vocabulary", "photo.png"],
            "error: photo.png cannot be read as a category list: it is no text",
        ),
        (["photo.png", "--names", " "], "error: name number 1 of 1 is empty"),
        (["photo.png", "--names", "dog", "--vocabulary", "words.txt"], "error: give --names or --vocabulary, not both"),
        (["photo.png", "--vocabulary", "none.txt"], "error: none.txt cannot be read as a category list: No such"),
        (["photo.png", "--names", "dog", "--out", "found.gif"], "error: --out found.gif: choose a name that ends in"),
        (
            ["photo.png", "--names", "dog", "--model", "nowhere"],
            "error: no model in nowhere: no such folder, .*train one",
        ),
    ],
)
def test_errors_are_one_line(
    run: Run, model: Path, photo: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(photo.parent)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    Path("words.txt").write_text("no image")
    Path("folder.json").mkdir()
    Image.effect_noise((64, 64), 80).save("whole.jpg")
    Path("cut.jpg").write_bytes(Path("whole.jpg").read_bytes()[:-400])
    if "--model" not in arguments:
        arguments = [*arguments, "--model", str(model)]

    found = run("predict", *arguments)

    assert (found.code, found.out) == (2, "")
    assert found.err.count("\n") == 1
    assert re.match(message, found.err), found.err


def test_no_model_at_all(run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    found = run("predict", photo, "--names", "dog")

    assert found.code == 2
    assert found.err == "error: no model in outputs/models: train one with `make demo`, or name a folder with --model\n"


def test_a_damaged_model(run: Run, model: Path, photo: Path) -> None:
    (model / "model.safetensors").write_bytes(b"no weights")

    found = run("predict", photo, "--names", "dog", "--model", model)

    assert found.code == 2
    assert found.err.startswith(f"error: {model} holds no readable model: ValueError: model.safetensors is not what")


def test_a_model_without_a_vocabulary(
    run: Run, tiny_config: ModelConfig, tiny_detector: Callable[..., DetCLIPv2], photo: Path, tmp_path: Path
) -> None:
    save_pretrained(tmp_path / "bare", tiny_detector(), config=tiny_config, image_size=64, data_digest="d")

    found = run("predict", photo, "--model", tmp_path / "bare")

    assert found.err == (
        "error: this model has no vocabulary of its own: say what to look for with --names or --vocabulary\n"
    )


@pytest.mark.parametrize("installed", [True, False])
def test_help_lists_all_commands_and_loads_none(run: Run, monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    entries = [EntryPoint(name=name, value="no.such:commands", group="detclip.commands") for name in ("plan", "label")]
    monkeypatch.setattr(cli, "entry_points", lambda **_: entries if installed else ())

    found = run("--help")

    assert found.code == 0
    wanted = ["predict", "dictionary", "data", "plan", *(["label"] if installed else [])]
    for name in wanted:
        assert re.search(rf"^\W*{name}  ", found.out, re.MULTILINE), (name, found.out)
    assert ("Of no.such." in found.out) == installed


@pytest.mark.parametrize("name", ["data", "plan"])
@pytest.mark.parametrize("entries", [(), (EntryPoint(name="x", value="no.such:commands", group="detclip.commands"),)])
def test_the_wheel_alone_says_what_it_lacks(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, entries: tuple[EntryPoint, ...]
) -> None:
    monkeypatch.setattr(cli, "entry_points", lambda **_: entries)

    found = run(name, "--help")

    assert (found.code, found.out) == (2, "")
    assert found.err.startswith(f"error: detclip {name} comes with the repository, which this installation lacks (")


def test_a_command_of_another_package_may_have_commands_of_its_own(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint(name="label", value=f"{__name__}:COMMANDS", group="detclip.commands")
    monkeypatch.setattr(
        EntryPoint, "load", lambda _: {"count": lambda: print("counted"), "list": lambda: print("listed")}
    )
    monkeypatch.setattr(cli, "entry_points", lambda **_: (entry,))

    assert run("label", "count") == Outcome(code=0, out="counted\n", err="")
    assert "detclip label" in run("label", "--help").out


def test_one_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DETCLIPV2_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cli.cache_folder() == roots.cache_folder()
    assert cli.cache_folder().name == "detclipv2"

    monkeypatch.setenv("DETCLIPV2_CACHE", str(tmp_path / "mine"))
    assert cli.cache_folder() == roots.cache_folder() == tmp_path / "mine"


def test_hostile_names_are_printed_inert(run: Run, model: Path, photo: Path, tmp_path: Path) -> None:
    names = ["\x1b[2Jdog", "\x9b31mcat", "\u202eexe", "[/red]"]

    found = run("predict", photo, "--names", *names, "--model", model, "--threshold", "0")
    drawn = run("predict", photo, "--names", *names, "--model", model, "--out", tmp_path / "a\x1b[2J.png")
    repeated = run("predict", photo, "--names", *names, *names, "--model", model)
    failed = run("predict", tmp_path / "\x1b]0;title\x07.png", "--model", model)

    assert {row["name"] for row in json.loads(found.out)["detections"]} <= set(names)
    assert (found.code, drawn.code, repeated.code, failed.code) == (0, 0, 0, 2)
    for said in (found.out, drawn.out, repeated.out + repeated.err, failed.err):
        assert said
        assert is_inert(said)
    assert "[/red]" in drawn.out
