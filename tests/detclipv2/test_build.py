from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from detclipv2.build import build_detector
from detclipv2.config import ModelConfig, SupervisionConfig, TrainConfig
from detclipv2.models.detector import DetCLIPv2


def test_the_configuration_arrives_where_it_belongs(tiny_detector: Callable[..., DetCLIPv2]) -> None:
    detector = tiny_detector(
        channels=24,
        num_tower_convs=3,
        norm_groups=8,
        embed_dim=12,
        anchor_scale=6.0,
        region_norm="unit",
        deformable="off",
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
