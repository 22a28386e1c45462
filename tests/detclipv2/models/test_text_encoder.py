import json
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from detclipv2.models.text_encoder import SentenceEncoder, packaged_minilm

NAMES = ["dog", "red apple", "a very long and winding road through the dark green hills", "cat", "traffic light"]


def _before_normalisation(encoder: SentenceEncoder, texts: list[str]) -> Tensor:
    outputs: list[Tensor] = []
    hook = encoder.projection.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.no_grad():
        encoder(texts)
    hook.remove()
    return outputs[0]


def test_embeddings_have_unit_length_and_one_row_a_text(minilm: SentenceEncoder) -> None:
    embeddings = minilm([*NAMES, "dog"])

    assert embeddings.shape == (6, 64)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(6))
    assert torch.equal(embeddings[0], embeddings[5])
    assert (embeddings[0] @ embeddings[1:5].T < 0.99).all()


@pytest.mark.parametrize("training_mode", ["frozen", "trained"])
def test_an_embedding_does_not_depend_on_its_neighbours(
    text_folder: Path, training_mode: Literal["frozen", "trained"]
) -> None:
    def encoder() -> SentenceEncoder:
        torch.manual_seed(0)
        return SentenceEncoder(text_folder, embed_dim=16, training_mode=training_mode).eval()

    together = encoder()(NAMES)
    apart = torch.cat([encoder()([name]) for name in NAMES])

    torch.testing.assert_close(together, apart, rtol=0, atol=1e-5)


def test_a_packaged_embedding_does_not_depend_on_its_neighbours(minilm: SentenceEncoder) -> None:
    padded = minilm(["zebra crossing", "a painting of two zebras that are crossing the river"])[0]
    minilm._features.pop("zebra crossing")

    torch.testing.assert_close(minilm(["zebra crossing"])[0], padded, rtol=0, atol=1e-5)


def test_what_a_frozen_encoder_remembers_does_not_depend_on_what_else_was_new(minilm: SentenceEncoder) -> None:
    """To the last bit: a resumed training meets its texts in other company, and must end as an undisturbed one does."""
    others = [f"{size} {thing}" for size in ("small", "very big", "") for thing in ("dogs", "fire engine", "umbrella")]
    others += [" ".join(["long"] * count) for count in range(1, 20)]
    alone = {}
    for name in NAMES:
        minilm._features.clear()
        alone[name] = minilm.features([name])[0].clone()
    for count in (1, 3, 11, len(others)):
        minilm._features.clear()
        together = minilm.features([*others[:count], *NAMES])[count:]
        assert all(torch.equal(alone[name], found) for name, found in zip(NAMES, together, strict=True)), count


def test_what_a_frozen_encoder_remembers_is_what_it_computes(text_folder: Path) -> None:
    def encoder(training_mode: Literal["frozen", "trained"]) -> SentenceEncoder:
        torch.manual_seed(0)
        return SentenceEncoder(text_folder, embed_dim=16, training_mode=training_mode).eval()

    frozen, trained = encoder("frozen"), encoder("trained")

    first, second = frozen(NAMES), frozen([NAMES[3], *NAMES])
    torch.testing.assert_close(first, trained(NAMES), rtol=0, atol=1e-5)
    assert torch.equal(second[1:], first)
    assert torch.equal(second[0], first[3])


def test_texts_are_cut_after_max_tokens(text_folder: Path) -> None:
    encoder = SentenceEncoder(text_folder, embed_dim=16, max_tokens=4).eval()  # two words between [CLS] and [SEP]
    embeddings = encoder(["dog cat", "dog cat horse yak", "dog horse"])

    torch.testing.assert_close(embeddings[0], embeddings[1], rtol=0, atol=1e-6)
    assert not torch.allclose(embeddings[0], embeddings[2], atol=1e-3)


def test_centre_takes_out_what_all_texts_share(minilm: SentenceEncoder) -> None:
    bias = minilm.projection.bias.detach().clone()
    before = _before_normalisation(minilm, NAMES)

    minilm.centre(NAMES)
    after = _before_normalisation(minilm, NAMES)
    with torch.no_grad():
        minilm.projection.bias.copy_(bias)

    assert float(before.mean(0).norm()) > 0.2
    assert float(after.mean(0).norm()) < 1e-5
    torch.testing.assert_close(after - after.mean(0), before - before.mean(0))


def test_only_the_projection_of_a_frozen_encoder_learns(text_folder: Path) -> None:
    frozen = SentenceEncoder(text_folder, embed_dim=16).train()
    frozen(NAMES).sum().backward()

    assert {name for name, p in frozen.named_parameters() if p.grad is not None} == {
        "projection.weight",
        "projection.bias",
    }
    assert not any(module.training for module in frozen.transformer.modules())

    trained = SentenceEncoder(text_folder, embed_dim=16, training_mode="trained").train()
    trained(NAMES).square()[:, 0].sum().backward()
    assert all(p.grad is not None for p in trained.parameters())
    assert trained.transformer.training


def test_names_that_were_encoded_for_inference_can_be_trained_on(text_folder: Path) -> None:
    encoder = SentenceEncoder(text_folder, embed_dim=16).train()
    with torch.inference_mode():
        encoder(NAMES)

    encoder(NAMES)[:, 0].sum().backward()

    assert encoder.projection.weight.grad is not None
    assert float(encoder.projection.weight.grad.norm()) > 0


def test_a_trained_encoder_encodes_each_text_once(text_folder: Path) -> None:
    encoder = SentenceEncoder(text_folder, embed_dim=16, training_mode="trained").eval()
    rows: list[int] = []
    encoder.transformer.register_forward_pre_hook(
        lambda module, inputs, keywords: rows.append(len(keywords["input_ids"])), with_kwargs=True
    )

    embeddings = encoder([f"text {number % 300}" for number in range(600)])

    assert rows == [256, 44]
    assert torch.equal(embeddings[:300], embeddings[300:])


def test_a_frozen_encoder_forgets_when_its_weights_change(text_folder: Path) -> None:
    encoder, other = (SentenceEncoder(text_folder, embed_dim=16).eval() for _ in range(2))
    before = encoder(NAMES)

    encoder.load_state_dict(other.state_dict())

    assert torch.equal(encoder(NAMES), other(NAMES))
    assert not torch.allclose(encoder(NAMES), before, atol=1e-2)


def test_a_folder_without_an_encoder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"no text encoder in {tmp_path}: it needs config.json, a tokenizer"):
        SentenceEncoder(tmp_path, embed_dim=16)


def test_the_packaged_encoder_is_found() -> None:
    assert (packaged_minilm() / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "config.json",
            {"auto_map": {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}},
            "config.json names Python code",
        ),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}, "names Python code"),
        ("config.json", {"model_type": "gpt2"}, "a text encoder of kind 'gpt2'; known are albert, bert"),
        ("config.json", {"hidden_size": 10**9}, "hidden_size is 1000000000; a whole number from 1 to 4096"),
        ("config.json", {"num_hidden_layers": -1}, "num_hidden_layers is -1"),
        ("config.json", {"vocab_size": 10**12}, "vocab_size is 1000000000000"),
    ],
)
def test_a_folder_runs_no_code_and_chooses_no_size(
    text_folder: Path, tmp_path: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    folder, ran = tmp_path / "text", tmp_path / "ran"
    shutil.copytree(text_folder, folder)
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | changes))

    with pytest.raises(ValueError, match=message):
        SentenceEncoder(folder, embed_dim=8)
    assert not ran.exists()
