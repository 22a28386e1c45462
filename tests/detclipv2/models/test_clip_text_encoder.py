import json
from pathlib import Path
from typing import Any, Literal

import open_clip
import pytest
import torch
from torch import Tensor

from detclipv2.config import OptimConfig
from detclipv2.models.clip_text_encoder import ClipTextArchitecture, ClipTextEncoder, saved_architecture
from detclipv2.models.text_encoder import TextEncoder
from detclipv2.training.optim import build_optimizer

SMALL = ClipTextArchitecture(width=64, num_layers=2, num_heads=1)
NAMES = ["dog", "red apple", "a very long and winding road through the dark green hills", "cat", "traffic light"]
BOS, EOS = 49406, 49407


def _encoder(**changes: Any) -> ClipTextEncoder:
    torch.manual_seed(0)
    encoder = ClipTextEncoder(SMALL, **{"embed_dim": 16, **changes}).eval()
    with torch.no_grad():  # at the usual small initial values every text looks the same
        for name, parameter in encoder.transformer.named_parameters():
            if "embedding" in name:
                parameter.normal_()
            elif "attn" in name:
                parameter.normal_(std=0.2)
    return encoder


def _tokens_seen(encoder: ClipTextEncoder, texts: list[str]) -> list[Tensor]:
    seen: list[Tensor] = []
    hook = encoder.transformer.token_embedding.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    encoder(texts)
    hook.remove()
    return seen


def test_it_has_as_many_parameters_as_the_text_encoder_of_filip_base() -> None:
    with torch.device("meta"):
        encoder = ClipTextEncoder(ClipTextArchitecture(), embed_dim=256)

    blocks = 12 * (4 * 512 * 512 + 4 * 512 + 8 * 512 * 512 + 4 * 512 + 512 + 4 * 512)  # attention, MLP, two norms
    assert sum(p.numel() for p in encoder.parameters()) == 49408 * 512 + 16 * 512 + blocks + 2 * 512 + 512 * 256
    assert sum(p.numel() for p in encoder.parameters()) == pytest.approx(63.3e6, abs=0.1e6)


def test_embeddings_have_unit_length_and_one_row_a_text() -> None:
    embeddings = _encoder()([*NAMES, "dog"])

    assert embeddings.shape == (6, 16)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(6))
    assert torch.equal(embeddings[0], embeddings[5])
    assert (embeddings[0] @ embeddings[1:5].T < 0.99).all()


def test_only_as_many_tokens_as_the_longest_text_has_are_looked_at_and_that_is_exact() -> None:
    encoder = _encoder(training_mode="trained")
    tokens = open_clip.tokenizer.SimpleTokenizer(context_length=16)(NAMES)
    with torch.no_grad():
        reference = torch.nn.functional.normalize(encoder.projection(encoder.transformer(tokens)), dim=-1)

    (seen,) = _tokens_seen(encoder, ["dog", "red apple"])

    assert seen.tolist() == [[BOS, 1929, EOS, 0], [BOS, 736, 3055, EOS]]
    torch.testing.assert_close(encoder(NAMES), reference, rtol=0, atol=1e-6)
    for text, expected in zip(NAMES, reference, strict=True):
        torch.testing.assert_close(_encoder(training_mode="trained")([text])[0], expected, rtol=0, atol=1e-6)


def test_a_long_text_is_cut_and_keeps_its_end() -> None:
    encoder = _encoder(training_mode="trained")
    long = " ".join(["dog"] * 500)

    (seen,) = _tokens_seen(encoder, [long])

    assert seen.tolist() == [[BOS, *[1929] * 14, EOS]]
    assert torch.equal(encoder([long]), _encoder(training_mode="trained")([" ".join(["dog"] * 14)]))
    assert not torch.allclose(encoder([long]), encoder([" ".join(["dog"] * 13)]), atol=1e-3)


@pytest.mark.parametrize("text", ["", "   ", "<end_of_text>", "\x00", "日本語 🍎"])
def test_odd_texts_have_an_embedding(text: str) -> None:
    embedding = _encoder()([text])

    assert embedding.isfinite().all()
    torch.testing.assert_close(embedding.norm(), torch.tensor(1.0))


@pytest.mark.parametrize("training_mode", ["frozen", "trained"])
def test_no_texts(training_mode: Literal["frozen", "trained"]) -> None:
    assert _encoder(training_mode=training_mode)([]).shape == (0, 16)


def test_what_a_frozen_encoder_remembers_is_what_it_computes() -> None:
    frozen, trained = _encoder(), _encoder(training_mode="trained")

    first = frozen(NAMES)

    assert torch.equal(frozen([NAMES[3], *NAMES]), torch.cat([first[3:4], first]))
    torch.testing.assert_close(first, trained(NAMES), rtol=0, atol=1e-6)
    assert _tokens_seen(frozen, NAMES) == []
    assert len(_tokens_seen(trained, NAMES)) == 1


def test_a_frozen_encoder_forgets_when_its_weights_change() -> None:
    encoder, other = _encoder(), _encoder()
    with torch.no_grad():
        other.transformer.token_embedding.weight.add_(torch.randn(49408, 64))
    before = encoder(NAMES)
    holder = torch.nn.ModuleDict({"text_encoder": encoder})
    holder.load_state_dict({f"text_encoder.{name}": value for name, value in other.state_dict().items()})

    assert torch.equal(encoder(NAMES), other(NAMES))
    assert not torch.allclose(encoder(NAMES), before, atol=1e-2)
    assert holder.double()["text_encoder"].features(NAMES).dtype == torch.float64


def test_gradients_flow_into_what_is_trained() -> None:
    frozen = _encoder().train()
    frozen(NAMES)[:, 0].sum().backward()
    assert {name for name, p in frozen.named_parameters() if p.grad is not None} == {"projection.weight"}

    trained = _encoder(training_mode="trained").train()
    trained(NAMES)[:, 0].sum().backward()
    norms = {name: 0.0 if p.grad is None else float(p.grad.norm()) for name, p in trained.named_parameters()}
    assert all(norm > 0 for norm in norms.values()), norms
    assert {name.partition(".")[0] for name in norms} == {"transformer", "projection"}


def test_the_transformer_has_the_text_learning_rate_and_the_projection_the_usual_one() -> None:
    encoder = _encoder(training_mode="trained")
    config = OptimConfig(learning_rate=1e-3, text_learning_rate_factor=0.1)
    optimizer = build_optimizer(torch.nn.ModuleDict({"text_encoder": encoder}), config)

    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in encoder.transformer.parameters()} == {1e-3 * 0.1}
    assert rates[id(encoder.projection.weight)] == 1e-3


def test_a_text_that_comes_twice_counts_twice_in_the_gradient() -> None:
    def gradient(texts: list[str], weights: list[float]) -> Tensor:
        encoder = _encoder(training_mode="trained")
        (encoder(texts)[:, 0] * torch.tensor(weights)).sum().backward()
        grad = encoder.transformer.positional_embedding.grad
        assert grad is not None
        return grad

    twice = gradient(["dog", "cat", "dog"], [1.0, 1.0, 2.0])
    torch.testing.assert_close(twice, gradient(["dog", "cat"], [3.0, 1.0]))


def test_gradient_checkpointing_changes_nothing_but_the_memory() -> None:
    def gradients_and_saved(mode: bool) -> tuple[list[Tensor], int]:
        encoder = _encoder(training_mode="trained", gradient_checkpointing=mode).train()
        saved = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal saved
            saved += tensor.numel() if not isinstance(tensor, torch.nn.Parameter) else 0
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = encoder(NAMES)[:, 0].sum()
        loss.backward()
        return [p.grad for p in encoder.parameters() if p.grad is not None], saved

    without, saved_without = gradients_and_saved(False)
    recomputed, saved_recomputed = gradients_and_saved(True)
    torch.testing.assert_close(recomputed, without)
    assert saved_recomputed < saved_without / 3


def test_centring_leaves_it_as_it_is() -> None:
    encoder = _encoder()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}

    encoder.centre(NAMES)

    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_it_remembers_what_fits_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detclipv2.models.text_encoder._MEMORY_SIZE", 3)
    encoder = _encoder()
    expected = _encoder(training_mode="trained")(NAMES)

    for _ in range(2):
        torch.testing.assert_close(encoder(NAMES), expected, rtol=0, atol=1e-6)
    assert len(encoder._features) == 3


def test_its_architecture_is_saved_and_found_again(tmp_path: Path) -> None:
    architecture = ClipTextArchitecture(width=64, num_layers=3, num_heads=2, activation="quick_gelu")
    encoder: TextEncoder = ClipTextEncoder(architecture, embed_dim=16)

    encoder.save(tmp_path / "text_encoder")

    assert saved_architecture(tmp_path / "text_encoder") == architecture


def test_a_description_that_is_not_there_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"no text encoder in {tmp_path}: it needs text_encoder.json"):
        saved_architecture(tmp_path)
    _encoder().save(tmp_path)
    path = tmp_path / "text_encoder.json"
    whole = json.loads(path.read_text())
    for content, message in [
        ("{", "describes no text encoder: .*Invalid JSON"),
        (json.dumps({**whole, "more": 1}), "describes no text encoder: .*more"),
        (json.dumps({**whole, "architecture": {"width": "64"}}), "describes no text encoder: .*width"),
        (
            json.dumps({**whole, "byte_pairs_sha256": "0" * 64}),
            "made with byte pairs 000000000000, open_clip has [0-9a-f]{12}",
        ),
    ]:
        path.write_text(content)
        with pytest.raises(ValueError, match=f"(?s){path}.*{message}"):
            saved_architecture(tmp_path)


def test_no_room_for_a_word() -> None:
    with pytest.raises(ValueError, match="max_text_tokens 2: at least 3"):
        _encoder(max_tokens=2)
