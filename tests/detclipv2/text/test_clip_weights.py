import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from detclipv2.models.clip_text_encoder import ClipTextArchitecture, ClipTextEncoder
from detclipv2.text.clip_weights import (
    ClipTextWeights,
    load_clip_text_weights,
    read_checkpoint,
    read_clip_text_weights,
)

NAMES = [
    "dog",
    "red apple",
    "a very long and winding road through the dark green hills of the north in winter",
    "cat",
    "dog",
]


def _clip(
    kind: type[CLIP] | type[CustomTextCLIP] = CLIP,
    *,
    width: int = 128,
    layers: int = 2,
    context_length: int = 77,
    embed_dim: int = 32,
    quick_gelu: bool = False,
) -> Any:
    torch.manual_seed(1)
    model = kind(
        embed_dim,
        CLIPVisionCfg(layers=1, width=64, patch_size=16, image_size=32),
        CLIPTextCfg(width=width, heads=width // 64, layers=layers, context_length=context_length),
        quick_gelu=quick_gelu,
    ).eval()
    with torch.no_grad():  # at the usual small initial values every text looks the same
        for name, parameter in model.named_parameters():
            if name.endswith(("token_embedding.weight", "positional_embedding")):
                parameter.normal_()
            elif "attn" in name:
                parameter.normal_(std=2 * width**-0.5)
    return model


@torch.no_grad()
def _reference(model: Any, *, context_length: int = 77) -> Tensor:
    tokens = open_clip.tokenizer.SimpleTokenizer(context_length=context_length)(NAMES)
    return F.normalize(model.encode_text(tokens), dim=-1)


@torch.no_grad()
def _embeddings(weights: ClipTextWeights, *, max_tokens: int = 77, embed_dim: int = 32) -> Tensor:
    encoder = ClipTextEncoder(weights.architecture, embed_dim=embed_dim, max_tokens=max_tokens)
    load_clip_text_weights(encoder, weights)
    return encoder(NAMES)


def _check_parity(path: str, reference: Tensor) -> None:
    embeddings = _embeddings(read_clip_text_weights(path))
    torch.testing.assert_close(embeddings, reference, rtol=0, atol=1e-5)
    assert float((embeddings[0] - embeddings[1]).abs().max()) > 0.05  # so that the comparison says something


def _prefixed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": value for name, value in state.items()}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".safetensors"])
@pytest.mark.parametrize("kind", [CLIP, CustomTextCLIP])
def test_a_plain_state_dict(tmp_path: Path, kind: type[CLIP] | type[CustomTextCLIP], suffix: str) -> None:
    model = _clip(kind)
    path = tmp_path / f"clip{suffix}"
    save_file(model.state_dict(), path) if suffix == ".safetensors" else torch.save(model.state_dict(), path)

    _check_parity(str(path), _reference(model))


@pytest.mark.parametrize("kind", [CLIP, CustomTextCLIP])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3, "name": "run"},
        lambda state: {"model": state},
        lambda state: {"epoch": 3, "state_dict": _prefixed(state), "optimizer": {"state": {}, "param_groups": []}},
        _prefixed,
    ],
)
def test_a_wrapped_state_dict(
    tmp_path: Path, kind: type[CLIP] | type[CustomTextCLIP], wrap: Callable[[Mapping[str, Tensor]], dict[str, Any]]
) -> None:
    model = _clip(kind)
    torch.save(wrap(model.state_dict()), tmp_path / "clip.pt")

    _check_parity(str(tmp_path / "clip.pt"), _reference(model))


def test_the_full_size(tmp_path: Path) -> None:
    model = _clip(width=512, layers=12, embed_dim=256)
    torch.save(model.state_dict(), tmp_path / "clip.pt")

    weights = read_clip_text_weights(str(tmp_path / "clip.pt"))

    assert weights.architecture == ClipTextArchitecture()
    reference = _reference(model)
    torch.testing.assert_close(_embeddings(weights, embed_dim=256), reference, rtol=0, atol=1e-5)


def test_half_precision_is_read_as_single(tmp_path: Path) -> None:
    model = _clip()
    half = {name: value.half() for name, value in model.state_dict().items()}
    torch.save(half, tmp_path / "clip.pt")
    model.load_state_dict(half)  # as fp32, of the rounded values

    weights = read_checkpoint(tmp_path / "clip.pt")

    assert {value.dtype for value in weights.tower.values()} == {torch.float32}
    _check_parity(str(tmp_path / "clip.pt"), _reference(model))


class _WritesWhenLoaded(torch.nn.Module):
    """Its archive calls this when it is loaded."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path, self.training = state
        torch.save(torch.ones(1), self.path)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return value


def test_the_code_of_a_torchscript_archive_does_not_run(tmp_path: Path) -> None:
    module = torch.jit.script(_WritesWhenLoaded(str(tmp_path / "written")))
    torch.jit.save(module, tmp_path / "ViT-B-32.pt")
    torch.jit.load(tmp_path / "ViT-B-32.pt")
    assert (tmp_path / "written").is_file(), "loading it does run its code"
    (tmp_path / "written").unlink()

    with pytest.raises(
        ValueError, match=r"ViT-B-32\.pt is a TorchScript archive.*open_clip:ARCHITECTURE:openai"
    ) as error:
        read_checkpoint(tmp_path / "ViT-B-32.pt")

    assert not (tmp_path / "written").exists()
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize(
    ("prefix", "more", "activation"),
    [
        ("", {}, "gelu"),
        ("quick_gelu:", {}, "quick_gelu"),
        ("", {"input_resolution": 224, "context_length": 77, "vocab_size": 49408}, "quick_gelu"),
    ],
)
def test_the_activation_of_a_file(
    tmp_path: Path, prefix: str, more: dict[str, int], activation: Literal["gelu", "quick_gelu"]
) -> None:
    model = _clip(quick_gelu=activation == "quick_gelu")
    torch.save(
        {**model.state_dict(), **{key: torch.tensor(value) for key, value in more.items()}}, tmp_path / "clip.pt"
    )
    spec = f"{prefix}{tmp_path}/clip.pt"

    assert read_clip_text_weights(spec).architecture.activation == activation
    _check_parity(spec, _reference(model))
    other = _reference(_clip(quick_gelu=activation == "gelu"))
    assert float((_embeddings(read_clip_text_weights(spec)) - other).abs().max()) > 1e-4  # the two can be told apart


def test_sixteen_positions_are_the_first_sixteen(tmp_path: Path) -> None:
    model, short = _clip(), _clip(context_length=16)
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    state = model.state_dict()
    short.load_state_dict({**state, "positional_embedding": state["positional_embedding"][:16]})

    embeddings = _embeddings(read_checkpoint(tmp_path / "clip.pt"), max_tokens=16)

    torch.testing.assert_close(embeddings, _reference(short, context_length=16), rtol=0, atol=1e-5)
    assert not torch.allclose(embeddings[2], _reference(model)[2], atol=1e-2)  # one text is longer than that


def test_a_projection_to_another_width_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = _clip(embed_dim=48)
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    weights = read_checkpoint(tmp_path / "clip.pt")
    encoder = ClipTextEncoder(weights.architecture, embed_dim=32, max_tokens=77)
    fresh = encoder.projection.weight.detach().clone()

    load_clip_text_weights(encoder, weights)

    assert torch.equal(encoder.projection.weight, fresh)
    assert caplog.messages == [f"{tmp_path}/clip.pt has no projection to 32; a fresh one is trained"]
    projected = F.normalize(encoder.features(NAMES) @ model.text_projection.detach(), dim=-1)
    torch.testing.assert_close(projected, _reference(model), rtol=0, atol=1e-5)


def test_what_a_frozen_encoder_remembers_goes_with_its_weights(tmp_path: Path) -> None:
    model = _clip()
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    weights = read_checkpoint(tmp_path / "clip.pt")
    encoder = ClipTextEncoder(weights.architecture, embed_dim=32, max_tokens=77)
    encoder(NAMES)

    load_clip_text_weights(encoder, weights)

    torch.testing.assert_close(encoder(NAMES), _reference(model), rtol=0, atol=1e-5)


def _without(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("token_embedding.weight"), "holds no CLIP text encoder: token_embedding.weight is missing"),
        (
            lambda state: {key: value for key, value in state.items() if ".resblocks." not in key},
            "holds no CLIP text encoder: transformer.resblocks.0 is missing",
        ),
        (_without("ln_final.bias"), "lacks parts of a CLIP text encoder: ln_final.bias$"),
        (
            lambda state: {key: value for key, value in state.items() if ".resblocks.0." not in key},
            r"lacks parts .*: transformer.resblocks.0.attn.in_proj_bias, .*, .* and 9 more$",
        ),
        (
            lambda state: {**state, "cls_emb": torch.zeros(128)},
            "is a text encoder of another kind: it has cls_emb too",
        ),
        (
            lambda state: {**state, "positional_embedding": torch.zeros(77, 64)},
            r"positional_embedding is \[77, 64\], and \[16, 128\] is needed",
        ),
        (
            lambda state: {**state, "positional_embedding": torch.zeros(8, 128)},
            r"positional_embedding is \[8, 128\], and \[16, 128\] is needed",
        ),
        (
            lambda state: {**state, "token_embedding.weight": torch.zeros(1000, 128)},
            r"token_embedding.weight is \[1000, 128\], and \[49408, 128\] is needed",
        ),
        (
            lambda state: {**state, "token_embedding.weight": torch.zeros(49408, 100)},
            "token_embedding.weight is 100 wide, no multiple of 64, a head's width",
        ),
        (
            lambda state: {**state, "text_projection": torch.zeros(64, 32)},
            r"text_projection is \[64, 32\], and \[128, 32\] is needed",
        ),
        (lambda state: [1, 2], "holds a list, and a state dict is needed"),
        (lambda state: Path("x"), "is no readable checkpoint: Weights only load failed"),
    ],
)
def test_a_checkpoint_that_does_not_fit(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    path = tmp_path / "clip.pt"
    torch.save(change(dict(_clip().state_dict())), path)

    with pytest.raises(ValueError, match=f"{path}:? {message}"):
        _embeddings(read_clip_text_weights(str(path)), max_tokens=16)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (
            ClipTextArchitecture(width=64, num_layers=2, num_heads=1),
            r"embedding is \[77, 128\], and \[16, 64\] is needed",
        ),
        (ClipTextArchitecture(width=128, num_layers=3, num_heads=2), "lacks parts .*: transformer.resblocks.2"),
        (ClipTextArchitecture(width=128, num_layers=1, num_heads=2), "another kind: it has transformer.resblocks.1"),
        (ClipTextArchitecture(width=128, num_layers=2, num_heads=4), "num_heads=2.*, the encoder a .*num_heads=4"),
    ],
)
def test_an_encoder_of_another_architecture(tmp_path: Path, architecture: ClipTextArchitecture, message: str) -> None:
    torch.save(_clip().state_dict(), tmp_path / "clip.pt")
    encoder = ClipTextEncoder(architecture, embed_dim=32)
    before = encoder(NAMES)

    with pytest.raises(ValueError, match=message):
        load_clip_text_weights(encoder, read_checkpoint(tmp_path / "clip.pt"))
    assert torch.equal(encoder(NAMES), before)


@pytest.mark.parametrize("name", ["clip.pt", "clip.safetensors"])
def test_a_damaged_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    state = dict(_clip().state_dict())
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-100_000])

    with pytest.raises(ValueError, match=f"{path} is no readable checkpoint: "):
        read_clip_text_weights(str(path))


@pytest.mark.parametrize("name", ["clip.pt", "clip.safetensors"])
def test_bytes_that_are_no_checkpoint(tmp_path: Path, name: str) -> None:
    path, rng = tmp_path / name, random.Random(0)
    for content in [b"", b"<html>not found</html>", *(rng.randbytes(rng.randint(1, 200)) for _ in range(100))]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path} (is no readable checkpoint: |holds )"):
            read_clip_text_weights(str(path))


@pytest.mark.parametrize(
    ("text_weights", "message"),
    [
        (
            "package",
            "no text weights at package: text_weights of a clip encoder is a checkpoint file, quick_gelu:FILE, ",
        ),
        ("quick_gelu:/nowhere.pt", "no text weights at /nowhere.pt: "),
        ("open_clip:ViT-Z-1:openai", "open_clip has no architecture 'ViT-Z-1'"),
        ("open_clip:", "open_clip has no architecture ''"),
        ("open_clip:ViT-B-32:mine", "open_clip's ViT-B-32 has no tag 'mine'; it has openai, laion400m_e31, "),
        ("open_clip:ViT-B-32", "open_clip's ViT-B-32 has no tag ''; it has openai"),
        ("open_clip:coca_ViT-B-32:laion2b_s13b_b90k", "another kind than CLIP's, by embed_cls, output_tokens"),
        (
            "open_clip:ViT-B-16-SigLIP:webli",
            "another kind than CLIP's, by vocab_size, hf_tokenizer_name, .*no_causal_mask",
        ),
    ],
)
def test_weights_that_are_not_there(text_weights: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_clip_text_weights(text_weights)
