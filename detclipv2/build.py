"""Model builders: the only place where the model's configuration meets its modules."""

from pathlib import Path

from detclipv2.config import ModelConfig
from detclipv2.models.backbone import Backbone, num_weights
from detclipv2.models.clip_text_encoder import ClipTextArchitecture, ClipTextEncoder, saved_architecture
from detclipv2.models.detector import DetCLIPv2
from detclipv2.models.head import Head
from detclipv2.models.neck import STRIDES, Neck
from detclipv2.models.text_encoder import SentenceEncoder, TextEncoder, num_weights_of, packaged_minilm
from detclipv2.text.clip_weights import load_clip_text_weights, read_clip_text_weights


def build_text_encoder(config: ModelConfig) -> TextEncoder:
    """The text encoder that the configuration names, with its pre-trained weights.

    Raises:
        ValueError: the weights are not there, or they do not fit.
    """
    if config.text_encoder == "sentence":
        return _sentence(config, packaged_minilm() if config.text_weights == "package" else Path(config.text_weights))
    if config.text_weights == "random":
        return _clip(config, ClipTextArchitecture())
    weights = read_clip_text_weights(config.text_weights)
    encoder = _clip(config, weights.architecture)
    load_clip_text_weights(encoder, weights)
    return encoder


def restore_text_encoder(folder: Path, config: ModelConfig) -> TextEncoder:
    """The text encoder that ``TextEncoder.save`` described in ``folder``; the caller loads its state dict.

    Raises:
        ValueError: the folder describes no encoder of the kind that the configuration names.
    """
    return _sentence(config, folder) if config.text_encoder == "sentence" else _clip(config, saved_architecture(folder))


def num_weights_of_text_encoder(folder: Path, config: ModelConfig) -> int:
    """How many numbers the text encoder of `restore_text_encoder` takes, of which none is made.

    Raises:
        ValueError: the folder describes no encoder of the kind that the configuration names.
    """
    if config.text_encoder == "sentence":
        return num_weights_of(folder)
    return saved_architecture(folder).num_weights


def num_weights_of_backbone(config: ModelConfig) -> int:
    """How many numbers the backbone takes, of which none is made.

    Raises:
        ValueError: timm has no such model.
    """
    return num_weights(config.backbone)


def _sentence(config: ModelConfig, folder: Path) -> SentenceEncoder:
    return SentenceEncoder(
        folder,
        embed_dim=config.embed_dim,
        max_tokens=config.max_text_tokens,
        training_mode=config.text_training,
    )


def _clip(config: ModelConfig, architecture: ClipTextArchitecture) -> ClipTextEncoder:
    return ClipTextEncoder(
        architecture,
        embed_dim=config.embed_dim,
        max_tokens=config.max_text_tokens,
        training_mode=config.text_training,
        gradient_checkpointing=config.gradient_checkpointing,
    )


def build_detector(config: ModelConfig, *, text_encoder: TextEncoder | None = None) -> DetCLIPv2:
    """A detector with the pre-trained backbone and text encoder that the configuration names, the rest fresh.

    A given ``text_encoder`` is taken instead of the one that ``config.text_weights`` names.

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
            has_objectness=config.objectness,
        ),
        text_encoder=text_encoder if text_encoder is not None else build_text_encoder(config),
        anchor_scale=config.anchor_scale,
        pixel_mean=config.pixel_mean,
        pixel_std=config.pixel_std,
    )
