from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import open_clip
import pytest
import timm
import torch
from torch import nn

from detclipv2.config import ModelConfig
from detclipv2.models.backbone import Backbone
from detclipv2.models.head import Head
from detclipv2.models.neck import STRIDES, Neck
from detclipv2.presets import detclipv2_l, detclipv2_t


def _image_side(config: ModelConfig) -> list[nn.Module]:
    """Backbone, neck and head without storage."""
    with torch.device("meta"):
        backbone = Backbone(config.backbone, drop_path=config.drop_path)
        neck = Neck(backbone.channels, channels=config.channels)
        head = Head(
            channels=config.channels,
            num_convs=config.num_tower_convs,
            norm_groups=config.norm_groups,
            embed_dim=config.embed_dim,
            num_levels=len(STRIDES),
            deformable=config.deformable,
            region_norm=config.region_norm,
        )
    return [backbone, neck, head]


def _millions(modules: list[nn.Module]) -> float:
    return sum(parameter.numel() for module in modules for parameter in module.parameters()) / 1e6


# Section 8 of docs/method.md counts them with a text encoder of 63.30M.
@pytest.mark.parametrize(
    ("preset", "deformable", "whole"),
    [
        (detclipv2_t, "on", 100.1),
        (detclipv2_t, "off", 99.4),
        (detclipv2_l, "on", 268.1),
        (detclipv2_l, "off", 267.5),
    ],
)
def test_as_many_parameters_as_the_method_counts(
    preset: Callable[[], ModelConfig], deformable: Literal["on", "off"], whole: float
) -> None:
    modules = _image_side(replace(preset(), deformable=deformable))

    assert _millions(modules) == pytest.approx(whole - 63.30, abs=0.05)


def test_the_deformable_convolution_is_light() -> None:
    head = _image_side(detclipv2_t())[-1]

    # 256 x 256 x 9 weights, 256 x 27 x 9 and 27 of the guide, 2 x 256 of the normalisation.
    assert _millions([head.get_submodule("deformable")]) * 1e6 == 589_824 + 62_208 + 27 + 512


@pytest.mark.parametrize(
    ("preset", "side_px", "num_classes", "channels"),
    [(detclipv2_t, 224, 1000, [192, 384, 768]), (detclipv2_l, 384, 21841, [384, 768, 1536])],
)
def test_the_backbones_are_the_papers(
    preset: Callable[[], ModelConfig], side_px: int, num_classes: int, channels: list[int]
) -> None:
    config = preset()
    weights = timm.get_pretrained_cfg(config.backbone)
    backbone, *_ = _image_side(config)

    assert config.backbone_weights == "timm"
    assert weights is not None and weights.has_weights
    assert (weights.input_size, weights.num_classes) == ((3, side_px, side_px), num_classes)
    assert (weights.mean, weights.std) == (config.pixel_mean, config.pixel_std)
    assert isinstance(backbone, Backbone)
    assert backbone.channels == channels


@pytest.mark.parametrize("preset", [detclipv2_t, detclipv2_l])
def test_the_text_encoders_weights_have_filip_bases_shape(preset: Callable[[], ModelConfig]) -> None:
    source, architecture, tag = preset().text_weights.split(":")

    assert source == "open_clip"
    assert tag in open_clip.list_pretrained_tags_by_model(architecture)
    text = open_clip.get_model_config(architecture)["text_cfg"]
    assert (text["layers"], text["width"], text["heads"], text["vocab_size"]) == (12, 512, 8, 49408)


def test_the_two_differ_in_their_backbone_alone() -> None:
    assert replace(detclipv2_t(), backbone=detclipv2_l().backbone) == detclipv2_l()
