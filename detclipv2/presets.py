"""Model presets: the two detectors of the paper (section 4.1 and Tables 9 to 11 of arXiv:2304.04514)."""

from detclipv2.config import ModelConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def _detclipv2(backbone: str) -> ModelConfig:
    """What the two have in common; the neck and the head are those of ``ModelConfig``'s defaults.

    Differs from the paper: its text encoder starts from FILIP-base, whose weights are not public; this one is CLIP's ViT-B of
    the same shape (U18 in docs/method.md). Name a file as ``text_weights`` for those who have them.
    """
    return ModelConfig(
        backbone=backbone,
        backbone_weights="timm",
        gradient_checkpointing=True,
        pixel_mean=IMAGENET_MEAN,
        pixel_std=IMAGENET_STD,
        text_encoder="clip",
        text_weights="open_clip:ViT-B-16:openai",
        text_training="trained",
        definitions=True,
    )


def detclipv2_t() -> ModelConfig:
    """DetCLIPv2-T: Swin-T pre-trained on ImageNet-1k; 100.1M parameters with the text encoder's 63.3M."""
    return _detclipv2("swin_tiny_patch4_window7_224.ms_in1k")


def detclipv2_l() -> ModelConfig:
    """DetCLIPv2-L: Swin-L pre-trained on ImageNet-22k at 384 px; 268.1M parameters with the text encoder's 63.3M."""
    return _detclipv2("swin_large_patch4_window12_384.ms_in22k")
