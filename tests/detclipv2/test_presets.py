from collections.abc import Callable
from dataclasses import replace

import open_clip
import pytest
import timm
import torch
from torch import nn

from detclipv2.build import build_detector
from detclipv2.config import ModelConfig
from detclipv2.models.detector import DetCLIPv2
from detclipv2.presets import detclipv2_l, detclipv2_t


def _detector(config: ModelConfig) -> DetCLIPv2:
    """Without storage."""
    with torch.device("meta"):
        return build_detector(replace(config, backbone_weights="random", text_weights="random"))


def _millions(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


@pytest.mark.parametrize(
    ("preset", "deformable", "whole"),
    [
        (detclipv2_t, True, 100.1),
        (detclipv2_t, False, 99.4),
        (detclipv2_l, True, 268.1),
        (detclipv2_l, False, 267.5),
    ],
)
def test_as_many_parameters_as_the_method_counts(
    preset: Callable[[], ModelConfig], deformable: bool, whole: float
) -> None:
    detector = _detector(replace(preset(), deformable=deformable))

    assert _millions(detector) == pytest.approx(whole, abs=0.1)
    assert _millions(detector.text_encoder) == pytest.approx(63.3, abs=0.05)


def test_the_deformable_convolution_is_light() -> None:
    head = _detector(detclipv2_t()).head

    # 256 x 256 x 9 weights, 256 x 27 x 9 and 27 of the guide, 2 x 256 of the normalisation.
    assert round(_millions(head.get_submodule("deformable")) * 1e6) == 589_824 + 62_208 + 27 + 512


@pytest.mark.parametrize(
    ("preset", "side_px", "num_classes", "channels"),
    [(detclipv2_t, 224, 1000, [192, 384, 768]), (detclipv2_l, 384, 21841, [384, 768, 1536])],
)
def test_the_backbones_are_the_papers(
    preset: Callable[[], ModelConfig], side_px: int, num_classes: int, channels: list[int]
) -> None:
    config = preset()
    weights = timm.get_pretrained_cfg(config.backbone)
    backbone = _detector(config).backbone

    assert config.backbone_weights == "timm"
    assert weights is not None and weights.has_weights
    assert (weights.input_size, weights.num_classes) == ((3, side_px, side_px), num_classes)
    assert (weights.mean, weights.std) == (config.pixel_mean, config.pixel_std)
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
