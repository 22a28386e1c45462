import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from detclipv2.config import ModelConfig
from detclipv2.hub import load_pretrained, save_pretrained
from detclipv2.inference import Predictor
from detclipv2.models.detector import DetCLIPv2

Save = Callable[..., DetCLIPv2]


@pytest.fixture
def save(tiny_config: ModelConfig, tiny_detector: Callable[..., DetCLIPv2]) -> Save:
    """Save a tiny detector with recognisable weights."""

    def to(folder: Path, *, bias: float = -2.5, **changes: Any) -> DetCLIPv2:
        config = replace(tiny_config, **changes)
        detector = tiny_detector(**changes).eval()
        with torch.no_grad():
            detector.head.logit_bias.fill_(bias)
        save_pretrained(folder, detector, config=config, image_size=64, data_digest="d1", names=["dog", "red apple"])
        return detector

    return to


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    "changes", [{}, {"region_norm": "unit", "deformable": "off", "frozen_modules": ("conv_stem",)}]
)
def test_a_loaded_model_detects_the_same(
    save: Save, tiny_config: ModelConfig, tmp_path: Path, changes: dict[str, Any]
) -> None:
    detector = save(tmp_path / "model", **changes)
    found = load_pretrained(tmp_path / "model")

    assert (found.image_size, found.data_digest, found.names) == (64, "d1", ["dog", "red apple"])
    assert found.config == replace(tiny_config, **changes)
    state = found.detector.state_dict()
    assert state.keys() == detector.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in detector.state_dict().items())
    pixels, names = torch.rand(1, 3, 64, 64), ["dog", "zebra"]
    ours, theirs = detector(pixels, [(64, 64)]), found.detector.eval()(pixels, [(64, 64)])
    torch.testing.assert_close(
        found.detector.logits(theirs.embeddings, found.detector.text_encoder(names)),
        detector.logits(ours.embeddings, detector.text_encoder(names)),
    )
    assert torch.equal(ours.box_deltas, theirs.box_deltas)


def test_a_model_folder_is_self_contained_and_reproducible(save: Save, tmp_path: Path) -> None:
    save(tmp_path / "one")
    save(tmp_path / "two")

    assert _files(tmp_path / "one") == _files(tmp_path / "two")
    (tmp_path / "one").rename(tmp_path / "moved")
    assert Predictor.from_pretrained(tmp_path / "moved").image_size == 64
    assert sorted(path.name for path in tmp_path.iterdir()) == ["moved", "two"], "nothing temporary stays"


def test_a_model_folder_is_replaced_whole(save: Save, tmp_path: Path) -> None:
    save(tmp_path / "model", bias=-1.0)
    save(tmp_path / "model", bias=-2.0)

    assert float(load_pretrained(tmp_path / "model").detector.head.logit_bias) == -2.0
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_failed_save_leaves_the_former_model(save: Save, tiny_config: ModelConfig, tmp_path: Path) -> None:
    detector = save(tmp_path / "model", bias=-1.0)
    before = _files(tmp_path / "model")

    with pytest.raises(TypeError):
        save_pretrained(
            tmp_path / "model",
            detector,
            config=tiny_config,
            image_size=64,
            data_digest="d1",
            names=[cast(str, object())],
        )

    assert _files(tmp_path / "model") == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_something_else_is_never_overwritten(save: Save, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")

    with pytest.raises(ValueError, match="thesis exists and is no model folder; name another one, or move it away"):
        save(tmp_path / "thesis")

    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


def test_no_model_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^no model in {re.escape(str(tmp_path))}/none: .*train one with"):
        load_pretrained(tmp_path / "none")


def test_another_layout(save: Save, tmp_path: Path) -> None:
    save(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layout_version": 99}))

    with pytest.raises(ValueError, match=r"model/config.json: layout 99, this version reads 1; save the model again"):
        load_pretrained(tmp_path / "model")


def _cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _garbage_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not weights at all")


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _no_text_encoder(folder: Path) -> None:
    (folder / "text_encoder" / "config.json").unlink()


def _changed_config(change: dict[str, Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        description = json.loads(path.read_text())
        path.write_text(json.dumps(description | {"model": description["model"] | change}))

    return damage


def _without_image_size(folder: Path) -> None:
    path = folder / "config.json"
    description = json.loads(path.read_text())
    del description["image_size"]
    path.write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut_weights, "SafetensorError"),
        (_garbage_weights, "SafetensorError"),
        (_no_weights, "FileNotFoundError"),
        (_no_text_encoder, "no text encoder in .*text_encoder"),
        (_changed_config({"embed_dim": 20}), "size mismatch"),
        (_changed_config({"embed_dim": "wide"}), "embed_dim"),
        (_changed_config({"backbone": "resnot"}), "timm has no backbone 'resnot'"),
        (_without_image_size, "KeyError: 'image_size'"),
    ],
)
def test_a_damaged_model_is_named(save: Save, tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    save(tmp_path / "model")
    damage(tmp_path / "model")

    with pytest.raises(ValueError, match=f"(?s)model holds no readable model: .*{message}"):
        load_pretrained(tmp_path / "model")
