from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detclipv2.build import build_detector, build_text_encoder, restore_text_encoder
from detclipv2.config import ModelConfig, SupervisionConfig, TrainConfig
from detclipv2.models.clip_text_encoder import ClipTextArchitecture, ClipTextEncoder
from detclipv2.models.detector import DetCLIPv2


def test_the_configuration_arrives_where_it_belongs(tiny_detector: Callable[..., DetCLIPv2]) -> None:
    detector = tiny_detector(
        channels=24,
        num_tower_convs=3,
        norm_groups=8,
        embed_dim=12,
        anchor_scale=6.0,
        region_norm="unit",
        deformable=False,
        text_training="trained",
        max_text_tokens=5,
        pixel_mean=(0.1, 0.2, 0.3),
        pixel_std=(0.4, 0.5, 0.6),
        frozen_modules=("conv_stem",),
    )

    assert len(detector.head.regression_tower) == len(detector.head.classification_tower) == 3
    assert detector.head.get_parameter("regression_tower.0.0.weight").shape == (24, 24, 3, 3)
    norm = detector.head.get_submodule("regression_tower.0.1")
    assert isinstance(norm, nn.GroupNorm)
    assert norm.num_groups == 8
    assert detector.head.output.embed.out_channels == detector.text_encoder.projection.out_features == 12
    assert detector.head.deformable is None
    assert detector.head.logit_scale is not None
    assert detector.anchor_scale == 6.0
    assert detector.text_encoder.max_tokens == 5
    assert all(parameter.requires_grad for parameter in detector.text_encoder.parameters())
    assert not detector.backbone.get_parameter("model.conv_stem.weight").requires_grad
    assert detector.pixel_mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert detector.pixel_std.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])


def test_drop_path_is_drawn_in_training_alone(tiny_detector: Callable[..., DetCLIPv2]) -> None:
    detector = tiny_detector(backbone="tf_efficientnet_lite0", drop_path=0.9)
    pixels = torch.rand(1, 3, 64, 64)

    def embeddings() -> torch.Tensor:
        return detector(pixels, [(64, 64)]).embeddings

    detector.eval()
    assert torch.equal(embeddings(), embeddings())
    detector.train()
    assert not torch.equal(embeddings(), embeddings())


def test_what_is_not_there(tiny_config: ModelConfig) -> None:
    with pytest.raises(ValueError, match="timm has no backbone 'resnot'"):
        build_detector(replace(tiny_config, backbone="resnot"))
    with pytest.raises(ValueError, match="no text encoder in /nowhere"):
        build_detector(replace(tiny_config, text_weights="/nowhere"))


def test_supervision_types_come_in_a_fixed_order_and_only_if_they_take_part() -> None:
    some = SupervisionConfig(batch_size=1, image_size=64)
    config = TrainConfig(num_steps=1, image_text=some, grounding=None, detection=some)

    assert list(config.supervisions()) == ["detection", "image_text"]


CLIP: dict[str, Any] = {"text_encoder": "clip", "text_weights": "random", "text_training": "trained"}


def test_a_detector_with_clips_text_encoder(tiny_config: ModelConfig) -> None:
    config = replace(tiny_config, **CLIP, embed_dim=256, max_text_tokens=12, gradient_checkpointing=True)
    encoder = build_detector(config).text_encoder

    assert isinstance(encoder, ClipTextEncoder)
    assert encoder.architecture == ClipTextArchitecture()
    assert encoder.transformer.positional_embedding.shape == (12, 512)
    assert encoder.projection.weight.shape == (256, 512)
    assert encoder.transformer.transformer.grad_checkpointing
    assert all(parameter.requires_grad for parameter in encoder.parameters())

    frozen = build_text_encoder(replace(config, text_training="frozen"))
    assert not any(parameter.requires_grad for parameter in frozen.transformer.parameters())


def _small_clip(tmp_path: Path) -> ClipTextEncoder:
    """An encoder whose weights lie in ``tmp_path / "clip.pt"``, under CLIP's names."""
    torch.manual_seed(0)
    encoder = ClipTextEncoder(ClipTextArchitecture(width=64, num_layers=1, num_heads=1), embed_dim=16)
    state = {**encoder.transformer.state_dict(), "text_projection": encoder.projection.weight.detach().T}
    torch.save(state, tmp_path / "clip.pt")
    return encoder


def test_clip_weights_come_from_the_file_that_is_named(tiny_config: ModelConfig, tmp_path: Path) -> None:
    original = _small_clip(tmp_path)
    config = replace(tiny_config, **{**CLIP, "text_weights": str(tmp_path / "clip.pt")})

    encoder = build_detector(config).text_encoder

    torch.testing.assert_close(encoder(["dog", "red apple"]), original(["dog", "red apple"]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["sentence", "clip"])
def test_a_text_encoder_is_restored_without_its_weights_file(
    tiny_config: ModelConfig, tmp_path: Path, kind: str
) -> None:
    original = _small_clip(tmp_path)
    clip = {**CLIP, "text_weights": str(tmp_path / "clip.pt")}
    config = replace(tiny_config, max_text_tokens=9, **(clip if kind == "clip" else {}))
    detector = build_detector(config)
    detector.text_encoder.save(tmp_path / "saved")
    (tmp_path / "clip.pt").unlink()

    encoder = restore_text_encoder(tmp_path / "saved", config)
    restored = build_detector(config, text_encoder=encoder)
    restored.load_state_dict(detector.state_dict())

    assert restored.text_encoder is encoder
    assert type(encoder) is type(detector.text_encoder)
    assert encoder.max_tokens == 9
    assert encoder.frozen == (kind == "sentence")
    assert torch.equal(encoder(["dog", "red apple"]), detector.text_encoder(["dog", "red apple"]))
    assert torch.allclose(encoder(["dog"]), original(["dog"]), atol=1e-6) == (kind == "clip")


def test_a_folder_that_describes_another_kind_of_encoder(tiny_config: ModelConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"no text encoder in {tmp_path}: it needs config.json"):
        restore_text_encoder(tmp_path, tiny_config)
    with pytest.raises(ValueError, match=f"no text encoder in {tmp_path}: it needs text_encoder.json"):
        restore_text_encoder(tmp_path, replace(tiny_config, **CLIP))
    with pytest.raises(ValueError, match="no text weights at package: .* open_clip:ARCHITECTURE:TAG or random"):
        build_detector(replace(tiny_config, text_encoder="clip", text_weights="package"))
