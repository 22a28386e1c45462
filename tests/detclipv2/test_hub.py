import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from detclipv2.config import ModelConfig
from detclipv2.hub import from_pretrained, save_pretrained, write_model_card
from detclipv2.inference import Predictor
from detclipv2.models.detector import DetCLIPv2
from detclipv2.text.dictionary import ConceptDictionary
from detclipv2.vocabulary import Vocabulary
from tests.loopback_web import Page, Web

Save = Callable[..., DetCLIPv2]
NAMES = ["dog", "red apple"]


@pytest.fixture(autouse=True)
def hub_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub, which is never asked."""
    cache = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return cache


@pytest.fixture
def served(
    tmp_path_factory: pytest.TempPathFactory, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A folder whose files a server on loopback serves as the Hub's model org/name, by the Hub's own protocol."""
    root, commit = tmp_path_factory.mktemp("served"), "0123456789abcdef0123456789abcdef01234567"

    class Hub(Web):
        def find(self, path: str) -> Page:
            files = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
            path = path.partition("?")[0]
            name = path.removeprefix(f"/org/name/resolve/{commit}/")
            headers = {"X-Repo-Commit": commit, "Connection": "close"}
            if path == "/api/models/org/name/revision/main":
                body = json.dumps({"id": "org/name", "sha": commit, "siblings": []}).encode()
            elif path == f"/api/models/org/name/tree/{commit}":
                entries = [{"type": "file", "path": n, "size": len(b), "oid": _sha1(b)} for n, b in files.items()]
                body = json.dumps(entries).encode()
            elif name in files:
                body = files[name]
                headers["ETag"] = f'"{_sha1(body)}"'
            else:
                body = b""
                headers["X-Error-Code"] = "RepoNotFound"
            return Page(status=200 if body else 404, body=body, headers=headers)

    with Hub().serving() as hub:
        address = f"http://{hub.address}"
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        yield root


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def save(tiny_config: ModelConfig, tiny_detector: Callable[..., DetCLIPv2]) -> Save:
    """Save a tiny detector with recognisable weights and a vocabulary of two names."""

    def to(
        folder: Path,
        *,
        bias: float = -2.5,
        dictionary: ConceptDictionary | None = None,
        metrics: dict[str, float] | None = None,
        names: list[str] | None = NAMES,
        **changes: Any,
    ) -> DetCLIPv2:
        config = replace(tiny_config, **changes)
        detector = tiny_detector(**changes).eval()
        with torch.no_grad():
            detector.head.logit_bias.fill_(bias)
        predictor = Predictor(detector, image_size=64)
        if names:
            predictor.set_vocabulary(names)
        save_pretrained(
            folder,
            detector,
            config=config,
            image_size=64,
            shorter_size=48,
            data_digest="d1",
            vocabulary=predictor.vocabulary,
            dictionary=dictionary,
            metrics=metrics,
        )
        return detector

    return to


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    "changes", [{}, {"region_norm": "unit", "deformable": False, "frozen_modules": ("conv_stem",)}]
)
def test_a_loaded_model_detects_the_same(
    save: Save, tiny_config: ModelConfig, tmp_path: Path, changes: dict[str, Any]
) -> None:
    detector = save(tmp_path / "model", **changes)
    found = from_pretrained(tmp_path / "model")

    assert (found.image_size, found.shorter_size, found.data_digest, found.dictionary) == (64, 48, "d1", None)
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
    assert found.vocabulary is not None
    assert found.vocabulary.names == NAMES
    torch.testing.assert_close(found.vocabulary.embeddings, detector.text_encoder(NAMES), atol=1e-6, rtol=0)


def test_what_a_model_folder_holds(save: Save, tmp_path: Path) -> None:
    save(tmp_path / "model")

    files = _files(tmp_path / "model")
    tokenizer = {"text_encoder/config.json", "text_encoder/tokenizer.json", "text_encoder/tokenizer_config.json"}
    own = {"config.json", "model.safetensors", "category_embeddings.safetensors", "README.md"}
    assert files.keys() == own | tokenizer
    description = json.loads(files["config.json"])
    assert description["architectures"] == ["DetCLIPv2"]
    assert (description["library_name"], description["layout_version"]) == ("detclipv2", 2)
    assert description["sha256"] == {
        name: hashlib.sha256(content).hexdigest()
        for name, content in files.items()
        if name not in ("config.json", "README.md")
    }


def test_a_model_without_a_vocabulary(save: Save, tmp_path: Path) -> None:
    save(tmp_path / "model", names=None)

    assert from_pretrained(tmp_path / "model").vocabulary is None
    assert "It comes without a vocabulary" in (tmp_path / "model" / "README.md").read_text()


def test_a_concept_dictionary_goes_along_when_definitions_are_on(save: Save, tmp_path: Path) -> None:
    dictionary = ConceptDictionary(definitions={"dog": "a domestic animal"})
    save(tmp_path / "on", definitions=True, dictionary=dictionary)
    save(tmp_path / "off", dictionary=dictionary)

    assert from_pretrained(tmp_path / "on").dictionary == dictionary
    assert from_pretrained(tmp_path / "off").dictionary is None
    assert not (tmp_path / "off" / "concepts.json").exists()
    with pytest.raises(ValueError, match="definitions are on, but there is no concept dictionary: give it, or switch"):
        save(tmp_path / "none", definitions=True)


def test_the_model_card(save: Save, tmp_path: Path) -> None:
    save(tmp_path / "model", metrics={"lvis_ap_300": 0.25})

    card = ModelCard.load(tmp_path / "model" / "README.md")
    data = card.data.to_dict()
    assert (data["license"], data["library_name"], data["pipeline_tag"]) == (
        "apache-2.0",
        "detclipv2",
        "zero-shot-object-detection",
    )
    result = data["model-index"][0]["results"][0]
    assert result["metrics"] == [{"type": "lvis_ap_300", "value": 0.25}]
    assert result["dataset"]["name"] == "validation set of d1"
    for expected in ("| lvis_ap_300 | 0.2500 |", "(number of names: 2)", "up to 64 x 48 pixels", "first 16 tokens"):
        assert expected in card.text

    write_model_card(tmp_path / "model", metrics={"lvis_ap_300": 0.5})
    assert "| lvis_ap_300 | 0.5000 |" in (tmp_path / "model" / "README.md").read_text()
    write_model_card(tmp_path / "model")
    assert "Not measured." in (tmp_path / "model" / "README.md").read_text()
    from_pretrained(tmp_path / "model")  # the card is no part of what is verified


def test_a_model_is_downloaded_from_the_hub(save: Save, served: Path, tmp_path: Path) -> None:
    detector = save(tmp_path / "model", bias=-1.25)
    shutil.copytree(tmp_path / "model", served, dirs_exist_ok=True)

    found = from_pretrained("org/name")

    assert float(found.detector.head.logit_bias) == -1.25
    assert torch.equal(found.detector.text_encoder(NAMES), detector.text_encoder(NAMES))
    with pytest.raises(
        ValueError,
        match="no model in org/none: no such folder, and the Hugging Face Hub says: RepositoryNotFoundError: 404",
    ):
        from_pretrained("org/none")


def test_a_model_in_the_cache_of_the_hub(
    save: Save, tmp_path: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = hub_cache / "models--org--name"
    save(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.chdir(tmp_path)

    vocabulary = Predictor.from_pretrained("org/name").vocabulary
    assert vocabulary is not None
    assert vocabulary.names == NAMES
    save(Path("org/name"), names=["a folder wins"])
    vocabulary = Predictor.from_pretrained("org/name").vocabulary
    assert vocabulary is not None
    assert vocabulary.names == ["a folder wins"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("org/none", "LocalEntryNotFoundError|IncompleteSnapshotError|OfflineMode"),
        ("no/such/folder", "HFValidationError"),
    ],
)
def test_neither_a_folder_nor_a_model_of_the_hub(source: str, reason: str) -> None:
    with pytest.raises(
        ValueError,
        match=f"^no model in {source}: no such folder, and the Hugging Face Hub says: .*({reason}).*: .*train",
    ):
        from_pretrained(source)


def test_a_model_folder_is_self_contained_and_reproducible(save: Save, tmp_path: Path) -> None:
    save(tmp_path / "one" / "model")
    save(tmp_path / "two" / "model")

    assert _files(tmp_path / "one") == _files(tmp_path / "two")
    (tmp_path / "one" / "model").rename(tmp_path / "one" / "moved")
    assert Predictor.from_pretrained(tmp_path / "one" / "moved").image_size == 64
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["model"], "nothing temporary stays"


def test_a_model_folder_is_replaced_whole(save: Save, tmp_path: Path) -> None:
    save(tmp_path / "model", bias=-1.0)
    save(tmp_path / "model", bias=-2.0)

    assert float(from_pretrained(tmp_path / "model").detector.head.logit_bias) == -2.0
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_failed_save_leaves_the_former_model(save: Save, tiny_config: ModelConfig, tmp_path: Path) -> None:
    detector = save(tmp_path / "model", bias=-1.0)
    before = _files(tmp_path / "model")

    with pytest.raises(TypeError, match="not JSON serializable"):
        save_pretrained(
            tmp_path / "model",
            detector,
            config=tiny_config,
            image_size=64,
            data_digest="d1",
            vocabulary=Vocabulary(names=[object()], embeddings=torch.zeros(1, 16)),  # type: ignore[list-item]
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
    with pytest.raises(ValueError, match=f"^no model in {re.escape(str(tmp_path))}: .*No such file.*train one with"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize(("content", "layout"), [('{"layout_version": 1, "model": {}}', "1"), ("[]", "None")])
def test_another_layout(tmp_path: Path, content: str, layout: str) -> None:
    (tmp_path / "config.json").write_text(content)

    with pytest.raises(ValueError, match=f"config.json: layout {layout}, this version reads 2; save the model again"):
        from_pretrained(tmp_path)


def _changed(folder: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    (folder / name).write_bytes(change((folder / name).read_bytes()))


def _described_anew(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        description = json.loads((folder / "config.json").read_text())
        change(description)
        (folder / "config.json").write_text(json.dumps(description))

    return damage


def _garbage_with_its_digest(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not weights at all")
    digest = hashlib.sha256(b"not weights at all").hexdigest()
    _described_anew(lambda description: description["sha256"].update({"model.safetensors": digest}))(folder)


def _saved_anew(folder: Path, name: str, value: float) -> None:
    """One weight replaced, and the digest with it, as whoever made the folder could."""
    state = load_file(folder / "model.safetensors")
    save_file(state | {name: torch.full_like(state[name], value)}, folder / "model.safetensors")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    _described_anew(lambda description: description["sha256"].update({"model.safetensors": digest}))(folder)


def test_a_model_of_version_0_1_has_on_and_off_for_bools(save: Save, tmp_path: Path) -> None:
    save(tmp_path / "model", deformable=False)
    assert from_pretrained(tmp_path / "model").config.deformable is False

    literals = {"deformable": "off", "objectness": "off", "definitions": "off", "gradient_checkpointing": "on"}
    _described_anew(lambda d: d["model"].update(literals))(tmp_path / "model")
    config = from_pretrained(tmp_path / "model").config

    assert (config.deformable, config.objectness, config.definitions) == (False, False, False)
    assert config.gradient_checkpointing is True


NOT_WHAT_WAS_SAVED = "is not what was saved: its sha256 differs from the one in config.json"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: _changed(folder, "model.safetensors", lambda b: b[:-9]),
            f"model.safetensors {NOT_WHAT_WAS_SAVED}",
        ),
        (
            lambda folder: _changed(folder, "model.safetensors", lambda b: b[:-1] + bytes([b[-1] ^ 1])),
            f"model.safetensors {NOT_WHAT_WAS_SAVED}",
        ),
        (
            lambda folder: _changed(folder, "category_embeddings.safetensors", lambda b: b + b" "),
            f"category_embeddings.safetensors {NOT_WHAT_WAS_SAVED}",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / "text_encoder" / "config.json").unlink(), "text_encoder/config.json is missing"),
        (_garbage_with_its_digest, "SafetensorError"),
        (
            _described_anew(lambda d: d["model"].update(embed_dim=20)),
            r"projection.weight has the shape \[16, 32\], and 20",
        ),
        (_described_anew(lambda d: d["model"].update(channels=4096)), "and 4096 rows by config.json"),
        (_described_anew(lambda d: d["model"].update(num_tower_convs=64)), "63.0.weight has the shape None"),
        (_described_anew(lambda d: d["model"].update(embed_dim="wide")), "embed_dim"),
        (_described_anew(lambda d: d["model"].update(colour="red")), r"config.json has unknown settings \['colour'\]"),
        (_described_anew(lambda d: d["model"].update(backbone="resnot")), "timm has no backbone 'resnot'"),
        (
            _described_anew(lambda d: d["model"].update(definitions=True)),
            "definitions are on, but it has no concepts.json",
        ),
        (_described_anew(lambda d: d.pop("image_size")), "KeyError: 'image_size'"),
        (_described_anew(lambda d: d.pop("sha256")), "its list of sha256 digests lacks model.safetensors"),
        (_described_anew(lambda d: d.update(sha256={})), "its list of sha256 digests lacks model.safetensors"),
        (_described_anew(lambda d: d.update(sha256=[])), "its list of sha256 digests lacks model.safetensors"),
        (_described_anew(lambda d: d["sha256"].update({"../x": "0"})), "'../x' leads out of the folder"),
        (_described_anew(lambda d: d["sha256"].update({"/etc/hostname": "0"})), "leads out of the folder"),
        (
            lambda folder: (folder / "text_encoder" / "special_tokens_map.json").write_text("{}"),
            "text_encoder/special_tokens_map.json is not in the list of sha256 digests: remove it",
        ),
        (
            lambda folder: _saved_anew(folder, "head.logit_bias", float("nan")),
            "head.logit_bias has values that are not finite",
        ),
        (_described_anew(lambda d: d.update(model=[])), "AttributeError|TypeError"),
    ],
)
def test_a_damaged_model_is_named(save: Save, tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    save(tmp_path / "model")
    damage(tmp_path / "model")

    with pytest.raises(ValueError, match=f"(?s)model holds no readable model: .*({message})"):
        from_pretrained(tmp_path / "model")


def test_several_writers_of_one_model_folder(save: Save, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda bias: save(tmp_path / "model", bias=bias), [-1.0, -2.0, -3.0, -4.0] * 2))

    assert float(from_pretrained(tmp_path / "model").detector.head.logit_bias) in (-1.0, -2.0, -3.0, -4.0)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
