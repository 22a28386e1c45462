"""Model folders, checkpoints, dictionaries and vocabularies that a stranger wrote: a ValueError that names the file, and soon."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from detclipv2.config import ModelConfig
from detclipv2.hub import from_pretrained, save_pretrained, write_model_card
from detclipv2.inference import Predictor
from detclipv2.models.detector import DetCLIPv2
from detclipv2.text.category_lists import read_categories
from detclipv2.text.clip_weights import read_checkpoint
from detclipv2.text.dictionary import ConceptDictionary
from detclipv2.training.checkpoint import CHECKPOINT_NAME, TrainState, load_state, save_state

DEEP = "[" * 200_000
INF, NAN = float("inf"), float("nan")
CONFIG: list[dict[str, Any]] = [
    {"backbone": "hf-hub:owner/name"},
    {"backbone": "hf_hub:owner/name"},
    {"backbone": "local-dir:/tmp/x"},
    {"backbone": "lcnet_035.hf-hub:owner/name"},
    {"backbone": "../lcnet_035"},
    {"backbone": "/etc/passwd"},
    {"backbone": "https://a.test/x"},
    {"backbone": ""},
    {"backbone": "lcnet_035\x1b[2J"},
    {"backbone": "vit_giant_patch14_224"},
    {"backbone": "x" * 100_000},
    {"backbone": None},
    {"drop_path": 1},
    {"drop_path": NAN},
    {"drop_path": -1},
    {"pixel_mean": [0, 0]},
    {"pixel_mean": [NAN, 0, 0]},
    {"pixel_mean": [INF, 0, 0]},
    {"pixel_mean": [1e300, 0, 0]},
    {"pixel_std": [0, 1, 1]},
    {"pixel_std": [1e-300, 1, 1]},
    {"pixel_std": [NAN, 1, 1]},
    {"pixel_std": [-1, 1, 1]},
    {"pixel_std": [INF, 1, 1]},
    {"pixel_std": "white"},
    {"channels": 0},
    {"channels": -16},
    {"channels": 10**9},
    {"channels": 10**400},
    {"channels": 1.5},
    {"channels": []},
    {"num_tower_convs": 10**9},
    {"norm_groups": 0},
    {"norm_groups": 7},
    {"embed_dim": 10**9},
    {"embed_dim": None},
    {"anchor_scale": 0},
    {"anchor_scale": NAN},
    {"anchor_scale": INF},
    {"anchor_scale": 1e30},
    {"region_norm": "unknown"},
    {"text_encoder": "code"},
    {"text_encoder": "clip"},
    {"text_training": {}},
    {"max_text_tokens": 0},
    {"max_text_tokens": 10**9},
    {"prompt": "no place"},
    {"prompt": "{} {}"},
    {"prompt": "{} {0.__class__}"},
    {"prompt": "{}{0}"},
    {"prompt": "{} {"},
    {"prompt": "{}" + "x" * 100_000},
    {"prompt": "{}\ud800"},
    {"prompt": None},
    {"frozen_modules": ["nothing"]},
    {"frozen_modules": 5},
    {"gradient_checkpointing": "perhaps"},
    {"definitions": True},
    {"__class__": "x"},
]
TOP: list[dict[str, Any]] = [
    {"image_size": 0},
    {"image_size": 10**9},
    {"image_size": True},
    {"image_size": 64.0},
    {"image_size": None},
    {"image_size": "64"},
    {"shorter_size": 1},
    {"shorter_size": 10**400},
    {"shorter_size": []},
    {"data_digest": "\x1b[2J"},
    {"data_digest": 7},
    {"data_digest": "a" * 1000},
    {"data_digest": "<script>"},
    {"layout_version": "2"},
    {"layout_version": [2]},
    {"model": None},
    {"model": [["channels", 16]]},
    {"sha256": {str(number): "0" for number in range(5000)}},
    {"sha256": {"model.safetensors": 7}},
]


@pytest.fixture(scope="module")
def saved(text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound model folder."""
    from detclipv2.build import build_detector

    torch.manual_seed(0)
    config = ModelConfig(
        backbone="lcnet_035",
        backbone_weights="random",
        drop_path=0.0,
        channels=16,
        num_tower_convs=1,
        norm_groups=4,
        embed_dim=16,
        text_weights=str(text_folder),
    )
    detector: DetCLIPv2 = build_detector(config).eval()
    predictor = Predictor(detector, image_size=64)
    predictor.set_vocabulary(["dog", "owl"])
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_pretrained(folder, detector, config=config, image_size=64, data_digest="d1", vocabulary=predictor.vocabulary)
    from_pretrained(folder)
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """The folder by links, but for its configuration, which may be written anew."""
    folder = tmp_path / "model"
    for path in saved.rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(saved)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(path)
    (folder / "config.json").unlink()
    (folder / "config.json").write_text((saved / "config.json").read_text())
    return folder


def described(folder: Path, change: dict[str, Any], *, model: bool = False) -> None:
    content = json.loads((folder / "config.json").read_text())
    (content["model"] if model else content).update(change)
    (folder / "config.json").write_text(json.dumps(content))


def swapped(folder: Path, name: str, content: bytes) -> None:
    """Another content, with its digest."""
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_bytes(content)
    digests = json.loads((folder / "config.json").read_text())["sha256"]
    described(folder, {"sha256": digests | {name: hashlib.sha256(content).hexdigest()}})


def refused(folder: Path) -> str:
    started = time.monotonic()
    with pytest.raises(ValueError, match=str(folder)) as caught:
        from_pretrained(folder)
    assert time.monotonic() - started < 60  # ten seconds, on a machine that does nothing else
    return str(caught.value)


@pytest.mark.parametrize("change", CONFIG, ids=[str(change)[:40].encode("ascii", "replace") for change in CONFIG])
def test_the_settings_of_a_model(copy: Path, change: dict[str, Any]) -> None:
    described(copy, change, model=True)

    assert len(refused(copy)) < 5000


@pytest.mark.parametrize("change", TOP, ids=[str(change)[:40] for change in TOP])
def test_the_rest_of_its_description(copy: Path, change: dict[str, Any]) -> None:
    described(copy, change)

    refused(copy)


@pytest.mark.parametrize(
    "content",
    [
        DEEP,
        "",
        "{",
        "null",
        '{"layout_version": 2}',
        "\x00",
        "9" * 5000,
        '{"layout_version": 2, "a": ' + DEEP,
        " " * 2**21,
    ],
    ids=["deep", "empty", "cut", "null", "nothing_else", "binary", "digits", "deep_inside", "large"],
)
def test_a_description_that_is_none(copy: Path, content: str) -> None:
    (copy / "config.json").write_text(content)

    refused(copy)


TEXT_CONFIG: list[dict[str, Any]] = [
    {"hidden_size": 10**9},
    {"hidden_size": 4096, "num_hidden_layers": 64, "intermediate_size": 16_384},
    {"hidden_size": 0},
    {"vocab_size": -1},
    {"vocab_size": 500_000},
    {"num_attention_heads": 0},
    {"num_attention_heads": 7},
    {"max_position_embeddings": 10**9},
    {"model_type": "gpt2"},
    {"model_type": "owned"},
    {"auto_map": {"AutoModel": "code.Code"}},
    {"hidden_act": "exec"},
    {"num_hidden_layers": "many"},
]


@pytest.mark.parametrize("change", TEXT_CONFIG, ids=[str(change)[:40] for change in TEXT_CONFIG])
def test_the_text_encoder_of_a_model(copy: Path, change: dict[str, Any]) -> None:
    content = json.loads((copy / "text_encoder/config.json").read_text()) | change
    swapped(copy, "text_encoder/config.json", json.dumps(content).encode())

    refused(copy)


@pytest.mark.parametrize(
    "name", ["text_encoder/config.json", "text_encoder/tokenizer.json", "text_encoder/tokenizer_config.json"]
)
@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", DEEP.encode(), b"\xff\xfe"], ids=["empty", "list", "cut", "deep", "bytes"]
)
def test_damaged_files_of_the_text_encoder(copy: Path, name: str, content: bytes) -> None:
    swapped(copy, name, content)

    refused(copy)


VOCABULARIES: dict[str, Callable[[Path], None]] = {
    "nan": lambda path: _vocabulary(path, torch.full((2, 16), NAN)),
    "inf": lambda path: _vocabulary(path, torch.full((2, 16), INF)),
    "wide": lambda path: _vocabulary(path, torch.zeros(2, 17)),
    "vector": lambda path: _vocabulary(path, torch.zeros(2)),
    "whole numbers": lambda path: _vocabulary(path, torch.zeros(2, 16, dtype=torch.int64)),
    "empty name": lambda path: _vocabulary(path, torch.zeros(2, 16), '["dog", " "]'),
    "a number": lambda path: _vocabulary(path, torch.zeros(2, 16), '["dog", 5]'),
    "null": lambda path: _vocabulary(path, torch.zeros(2, 16), "null"),
    "object": lambda path: _vocabulary(path, torch.zeros(2, 16), '{"a": 1, "b": 2}'),
    "surrogate": lambda path: _vocabulary(path, torch.zeros(2, 16), '["dog", "\\ud800"]'),
    "deep": lambda path: _vocabulary(path, torch.zeros(2, 16), DEEP),
    "other tensor": lambda path: save_file({"x": torch.zeros(2)}, path, metadata={"names": "[]"}),
    "garbage": lambda path: path.write_bytes(b"\xff" * 100) and None,
}  # fmt: skip


def _vocabulary(path: Path, embeddings: torch.Tensor, names: str = '["dog", "owl"]') -> None:
    save_file({"embeddings": embeddings}, path, metadata={"names": names})


@pytest.mark.parametrize("write", VOCABULARIES.values(), ids=VOCABULARIES)
def test_the_vocabulary_of_a_model(copy: Path, write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "made")
    swapped(copy, "category_embeddings.safetensors", (tmp_path / "made").read_bytes())

    refused(copy)


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "vocabulary": ("names.txt", read_categories),
    "json": ("names.json", read_categories),
    "yaml": ("names.yaml", read_categories),
    "dictionary": ("concepts.json", ConceptDictionary.load),
    "text weights": ("weights.pt", read_checkpoint),
    "checkpoint": (CHECKPOINT_NAME, lambda path: load_state(path.parent)),
    "model": ("config.json", lambda path: from_pretrained(path.parent)),
}


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
@pytest.mark.parametrize(("name", "read"), READERS.values(), ids=READERS)
def test_what_is_no_regular_file_is_not_read(name: str, read: Callable[[Path], Any], kind: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")

    with pytest.raises(ValueError, match=str(tmp_path)):
        read(path)


DICTIONARIES = [
    DEEP,
    '{"layout_version": 1, "definitions": ' + DEEP,
    '{"layout_version": 1, "definitions": {"dog": "\\ud800"}}',
    '{"layout_version": 1, "definitions": {"\\ud800": null}}',
    '{"layout_version": 1, "definitions": {"": null}}',
    '{"layout_version": 1, "definitions": {"dog": 1}}',
    '{"layout_version": 1, "definitions": []}',
    '{"layout_version": ' + "9" * 5000 + "}",
    "[]",
    "\udcff",
]


@pytest.mark.parametrize("content", DICTIONARIES, ids=range(len(DICTIONARIES)))
def test_dictionaries(content: str, tmp_path: Path) -> None:
    path = tmp_path / "concepts.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))

    with pytest.raises(ValueError, match="concepts.json"):
        ConceptDictionary.load(path)


def _bomb() -> str:
    """YAML of a kilobyte that would be a name of gigabytes."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    return "\n".join([*lines, "names: [*a11]"])


LISTS = {
    "bomb.yaml": _bomb(),
    "cycle.yaml": "names: &a [*a]",
    "ids.yaml": _bomb().replace("names: [*a11]", "names: {x: *a11}"),
    "large.yaml": "x" * (3 * 2**20),
    "deep.yaml": "[" * 5000,
    "surrogate.json": '["\\ud800"]',
    "deep.json": DEEP,
    "digits.json": "[" + "9" * 5000 + "]",
    "object.json": '{"names": [{}]}',
    "definition.json": '[{"name": "dog", "def": 5}]',
    "synonyms.json": '[{"name": "dog", "synonyms": 5}]',
    "number.json": '{"names": {"0": 1.5}}',
}


@pytest.mark.parametrize(("name", "content"), LISTS.items(), ids=LISTS)
def test_vocabulary_files(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)

    with pytest.raises(ValueError, match=name) as caught:
        read_categories(tmp_path / name)
    assert len(str(caught.value)) < 2000


def _with_digest(**changes: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        fields: dict[str, Any] = {"step": 1, "model": {"w": torch.zeros(2)}, "optimizer": {}, "segments": []}
        save_state(TrainState(**(fields | changes)), folder)

    return write


CHECKPOINTS: dict[str, Callable[[Path], None]] = {
    "nan": _with_digest(model={"w": torch.tensor([NAN])}),
    "nan average": _with_digest(ema={"w": torch.tensor([INF])}),
    "text for a step": _with_digest(step="1"),
    "negative step": _with_digest(step=-1),
    "list of weights": _with_digest(model=[]),
    "pickled code": lambda folder: torch.save(print, folder / CHECKPOINT_NAME),
    "no digest": lambda folder: torch.save({"step": 1}, folder / CHECKPOINT_NAME),
    "another key": lambda folder: torch.save({"sha256": "0", "x": 1}, folder / CHECKPOINT_NAME),
    "garbage": lambda folder: (folder / CHECKPOINT_NAME).write_bytes(b"PK\3\4" + b"\0" * 90) and None,
}  # fmt: skip


@pytest.mark.parametrize("write", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_checkpoints(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path)

    with pytest.raises(ValueError, match=CHECKPOINT_NAME) as caught:
        load_state(tmp_path)
    assert "weights_only" not in str(caught.value)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=[]), max_size=40),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), value=JSON)
def test_any_value_of_any_field_is_used_or_refused(copy: Path, saved: Path, data: st.DataObject, value: Any) -> None:
    content = json.loads((saved / "config.json").read_text())
    part = content["model"] if data.draw(st.booleans(), label="of the model") else content
    part[data.draw(st.sampled_from(sorted(part)), label="field")] = value
    (copy / "config.json").write_text(json.dumps(content))
    started = time.monotonic()

    with suppress(ValueError):
        from_pretrained(copy)
    assert time.monotonic() - started < 60  # ten seconds, on a machine that does nothing else


def test_a_model_card_shows_a_name_as_text(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / '<img src=x onerror="alert(1)">`[a](javascript:x)'
    folder.mkdir()
    for name in ("config.json", "category_embeddings.safetensors"):
        (folder / name).write_bytes((saved / name).read_bytes())

    write_model_card(folder, metrics={"lvis_ap_300": 0.5})

    body = (folder / "README.md").read_text().split("---\n", 2)[2]
    for unwanted in ("<img", "](javascript", "\x1b"):
        assert unwanted not in body
