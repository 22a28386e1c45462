import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from detclipv2.models.clip_text_encoder import ClipTextArchitecture, ClipTextEncoder
from detclipv2.models.text_encoder import SentenceEncoder, TextEncoder
from detclipv2.text.embedding_cache import TextEmbeddingCache, encoder_digest, weights_digest

NAMES = ["dog", "red apple", "cat", "traffic light"]


def _clip(seed: int = 0, *, activation: Any = "gelu", **changes: Any) -> ClipTextEncoder:
    torch.manual_seed(seed)
    architecture = ClipTextArchitecture(width=64, num_layers=1, num_heads=1, activation=activation)
    return ClipTextEncoder(architecture, **{"embed_dim": 16, **changes})


@pytest.fixture
def encoded() -> list[str]:
    """Texts that ``watched`` encoders were asked for."""
    return []


@pytest.fixture
def encoder(encoded: list[str]) -> ClipTextEncoder:
    encoder = _clip()
    encoder.register_forward_pre_hook(lambda module, inputs: encoded.extend(inputs[0]))
    return encoder


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_only_what_is_missing_is_encoded(encoder: ClipTextEncoder, encoded: list[str], tmp_path: Path) -> None:
    expected = _clip()(NAMES).detach()

    first = TextEmbeddingCache(tmp_path / "cache").embeddings(encoder, ["cat", "dog", "cat"])
    assert encoded == ["cat", "dog"]
    second = TextEmbeddingCache(tmp_path / "cache").embeddings(encoder, NAMES)
    assert encoded == ["cat", "dog", "red apple", "traffic light"]
    third = TextEmbeddingCache(tmp_path / "cache").embeddings(encoder, NAMES[::-1])
    assert len(encoded) == 4

    torch.testing.assert_close(first, expected[[2, 0, 2]], rtol=0, atol=1e-6)
    torch.testing.assert_close(second, expected, rtol=0, atol=1e-6)
    assert torch.equal(third, second.flip(0))
    assert not second.requires_grad
    assert len(_files(tmp_path)) == 2


def test_no_texts(encoder: ClipTextEncoder, tmp_path: Path) -> None:
    assert TextEmbeddingCache(tmp_path).embeddings(encoder, []).shape == (0, 16)
    assert _files(tmp_path) == []


@pytest.mark.parametrize("other", [{"seed": 1}, {"max_tokens": 8}, {"activation": "quick_gelu"}, {"embed_dim": 8}])
def test_another_encoder_has_embeddings_of_its_own(tmp_path: Path, other: dict[str, Any]) -> None:
    cache = TextEmbeddingCache(tmp_path)
    cache.embeddings(_clip(), NAMES)

    found = cache.embeddings(_clip(**other), NAMES)

    torch.testing.assert_close(found, _clip(**other)(NAMES).detach(), rtol=0, atol=1e-6)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_training_step_makes_another_encoder(tmp_path: Path) -> None:
    encoder = _clip(training_mode="trained")
    cache = TextEmbeddingCache(tmp_path)
    before = cache.embeddings(encoder, NAMES)
    encoder(NAMES)[:, 0].sum().backward()
    torch.optim.SGD(encoder.parameters(), lr=1.0).step()

    after = cache.embeddings(encoder, NAMES)

    torch.testing.assert_close(after, encoder(NAMES).detach(), rtol=0, atol=1e-6)
    assert not torch.allclose(after, before, atol=1e-3)


def test_dropout_is_off_and_the_mode_comes_back(text_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = SentenceEncoder(text_folder, embed_dim=16, training_mode="trained").train()
    for module in encoder.transformer.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.9
    assert not torch.allclose(encoder(NAMES), encoder(NAMES), atol=1e-3)

    found = TextEmbeddingCache(tmp_path).embeddings(encoder, NAMES)

    assert encoder.training and encoder.transformer.training
    torch.testing.assert_close(found, encoder.eval()(NAMES).detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("training_mode", ["frozen", "trained"])
def test_embeddings_are_single_precision_under_autocast(
    tmp_path: Path, training_mode: Literal["frozen", "trained"]
) -> None:
    encoder = _clip(training_mode=training_mode)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = encoder(NAMES)
        found = TextEmbeddingCache(tmp_path).embeddings(encoder, NAMES)

    assert not torch.allclose(half, _clip()(NAMES), atol=1e-4)
    torch.testing.assert_close(found, _clip()(NAMES).detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "renamed"])
def test_a_damaged_file_is_not_used(
    encoder: ClipTextEncoder, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = TextEmbeddingCache(tmp_path)
    expected = cache.embeddings(encoder, NAMES)
    (path,) = _files(tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[-5] ^= 1
    elif damage == "empty":
        content.clear()
    else:
        path = path.rename(path.with_name("0" * 64 + ".safetensors"))
    path.write_bytes(content)

    torch.testing.assert_close(cache.embeddings(encoder, NAMES), expected, rtol=0, atol=1e-6)
    assert caplog.messages == [f"{path} is not used, its texts are encoded again: it is damaged; remove it"]


def test_a_file_in_another_encoders_folder_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = TextEmbeddingCache(tmp_path)
    cache.embeddings(_clip(1), NAMES)
    (path,) = _files(tmp_path)
    right = tmp_path / encoder_digest(_clip())
    right.mkdir()
    moved = path.rename(right / path.name)

    found = cache.embeddings(_clip(), NAMES)

    torch.testing.assert_close(found, _clip()(NAMES).detach(), rtol=0, atol=1e-6)
    assert caplog.messages == [
        f"{moved} is not used, its texts are encoded again: it is of another encoder, {encoder_digest(_clip(1))}; remove it"
    ]


def test_what_a_killed_process_left_behind_is_not_looked_at(encoder: ClipTextEncoder, tmp_path: Path) -> None:
    cache = TextEmbeddingCache(tmp_path)
    expected = cache.embeddings(encoder, NAMES)
    (tmp_path / encoder_digest(encoder) / ".half.tmp").write_bytes(b"\x10")

    assert torch.equal(cache.embeddings(encoder, NAMES), expected)


# Another process, with the encoder of ``_clip()``: adds "shared N" and its own "NAME N" in turn.
WRITER = """
import sys
from pathlib import Path
import torch
from detclipv2.models.clip_text_encoder import ClipTextArchitecture, ClipTextEncoder
from detclipv2.text.embedding_cache import TextEmbeddingCache

folder, name, num_steps = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
torch.manual_seed(0)
encoder = ClipTextEncoder(ClipTextArchitecture(width=64, num_layers=1, num_heads=1), embed_dim=16)
print("ready", flush=True)
sys.stdin.readline()
for step in range(num_steps):
    TextEmbeddingCache(folder).embeddings(encoder, [f"shared {step}", f"{name} {step}"])
"""


@contextmanager
def _writer(folder: Path, name: str, *, num_steps: int) -> Iterator[subprocess.Popen[str]]:
    """A process that waits for a line before it begins to write."""
    command = [sys.executable, "-c", WRITER, str(folder), name, str(num_steps)]
    root = Path(__file__).parents[3]
    with subprocess.Popen(command, cwd=root, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def _start(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_processes_that_write_at_once_lose_nothing(
    encoder: ClipTextEncoder, encoded: list[str], tmp_path: Path
) -> None:
    with _writer(tmp_path, "first", num_steps=5) as first, _writer(tmp_path, "second", num_steps=5) as second:
        _start(first)
        _start(second)
        assert (first.wait(), second.wait()) == (0, 0)

    texts = [f"{name} {step}" for name in ("shared", "first", "second") for step in range(5)]
    found = TextEmbeddingCache(tmp_path).embeddings(encoder, texts)

    assert encoded == []
    torch.testing.assert_close(found, _clip()(texts).detach(), rtol=0, atol=1e-6)


def test_a_kill_at_any_moment_leaves_a_usable_cache(
    encoder: ClipTextEncoder, encoded: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with _writer(tmp_path, "killed", num_steps=10**6) as process:
        _start(process)
        while len(list(tmp_path.rglob("*.safetensors"))) < 3:
            assert process.poll() is None

    texts = [f"killed {step}" for step in range(3)]
    found = TextEmbeddingCache(tmp_path).embeddings(encoder, texts)

    assert encoded == caplog.messages == []
    torch.testing.assert_close(found, _clip()(texts).detach(), rtol=0, atol=1e-6)


def test_an_encoder_that_was_saved_and_restored_is_the_same(text_folder: Path, tmp_path: Path) -> None:
    encoder = SentenceEncoder(text_folder, embed_dim=16)
    fresh = encoder_digest(encoder)
    encoder(NAMES)  # the tokenizer now has settings of its latest call
    encoder.save(tmp_path / "text_encoder")
    restored: TextEncoder = SentenceEncoder(tmp_path / "text_encoder", embed_dim=16)
    assert encoder_digest(restored) != fresh  # other random weights
    restored.load_state_dict(encoder.state_dict())

    assert encoder_digest(encoder) == encoder_digest(restored) == fresh


class _Module(nn.Module):
    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        for name, value in tensors.items():
            self.register_buffer(name, value)


def test_a_digest_depends_on_names_types_shapes_and_bytes() -> None:
    ones, zeros = torch.ones(4), torch.zeros(4)
    modules = [
        _Module(a=ones, b=zeros),
        _Module(a=zeros, b=ones),
        _Module(a=ones, c=zeros),
        _Module(a=ones, b=zeros.view(2, 2)),
        _Module(a=ones, b=zeros.int()),
        _Module(a=ones, b=zeros, c=torch.tensor(1.0)),
        _Module(a=ones.bfloat16(), b=zeros),
        _Module(a=ones, b=-zeros),
    ]

    assert len({weights_digest(module) for module in modules}) == len(modules)
    assert weights_digest(_Module(b=zeros, a=ones)) == weights_digest(modules[0])
    assert weights_digest(_Module(a=torch.ones(4, 2).T[0], b=zeros)) == weights_digest(modules[0])
