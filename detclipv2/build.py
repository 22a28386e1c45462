"""From configuration to modules: the only place where the two meet."""

from pathlib import Path

from detclipv2.config import ModelConfig
from detclipv2.models.backbone import Backbone
from detclipv2.models.detector import DetCLIPv2
from detclipv2.models.head import Head
from detclipv2.models.neck import STRIDES, Neck
from detclipv2.models.text_encoder import SentenceEncoder, packaged_minilm


def build_detector(config: ModelConfig) -> DetCLIPv2:
    """A detector with the pre-trained backbone and text encoder that the configuration names, the rest fresh.

    Raises:
        ValueError: the configuration names weights or a backbone that are not there.
    """
    backbone = Backbone(
        config.backbone,
        weights=config.backbone_weights,
        drop_path=config.drop_path,
        frozen_modules=config.frozen_modules,
        gradient_checkpointing=config.gradient_checkpointing,
    )
    folder = packaged_minilm() if config.text_weights == "package" else Path(config.text_weights)
    return DetCLIPv2(
        backbone=backbone,
        neck=Neck(backbone.channels, channels=config.channels),
        head=Head(
            channels=config.channels,
            num_convs=config.num_tower_convs,
            norm_groups=config.norm_groups,
            embed_dim=config.embed_dim,
            num_levels=len(STRIDES),
            deformable=config.deformable,
            region_norm=config.region_norm,
            has_objectness=config.objectness != "none",
        ),
        text_encoder=SentenceEncoder(
            folder,
            embed_dim=config.embed_dim,
            max_tokens=config.max_text_tokens,
            training_mode=config.text_training,
        ),
        anchor_scale=config.anchor_scale,
        pixel_mean=config.pixel_mean,
        pixel_std=config.pixel_std,
    )
