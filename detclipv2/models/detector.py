"""The dual-stream detector: regions on one side, texts on the other, a dot product between them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detclipv2.models.anchors import make_anchors, valid_anchors
from detclipv2.models.backbone import Backbone
from detclipv2.models.head import Head
from detclipv2.models.neck import STRIDES, Neck
from detclipv2.models.text_encoder import TextEncoder
from detclipv2.structures import HeadOutput, float_pixels


class DetCLIPv2(nn.Module):
    """Backbone, neck and head over images; an encoder over texts (section 3.2 of arXiv:2304.04514).

    There is no fusion of the two streams, so texts can be encoded once and used for any number of images.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        backbone: Backbone,
        neck: Neck,
        head: Head,
        text_encoder: TextEncoder,
        anchor_scale: float,
        pixel_mean: tuple[float, float, float],
        pixel_std: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.text_encoder = text_encoder
        self.anchor_scale = anchor_scale
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor, image_sizes_hw: list[tuple[int, int]]) -> HeadOutput:
        """What the head says of every anchor.

        Args:
            pixels: [B, 3, H, W] in 0..1, or uint8, padded.
            image_sizes_hw: sizes before padding.
        """
        normalised = _padded((float_pixels(pixels) - self.pixel_mean) / self.pixel_std, self.backbone.size_divisor)
        pyramid = self.neck(self.backbone(normalised.contiguous(memory_format=torch.channels_last)))
        maps = self.head(pyramid)
        sizes = [(int(level.shape[-2]), int(level.shape[-1])) for level in pyramid]
        anchors = make_anchors(sizes, list(STRIDES), scale=self.anchor_scale, device=pixels.device)
        return HeadOutput(
            **vars(maps),
            anchors_xyxy=anchors,
            num_anchors=[height * width for height, width in sizes],
            valid=valid_anchors(anchors, image_sizes_hw),
        )

    def logits(self, embeddings: Tensor, texts: Tensor) -> Tensor:
        """Region-text logits S = f^P . f^T + b [..., M] of region embeddings [..., D] and text embeddings [M, D].

        Differs from the paper: it states neither a normalisation nor a bias; see U1 in docs/method.md.
        """
        return embeddings @ texts.T + self.head.logit_bias


def _padded(pixels: Tensor, divisor: int) -> Tensor:
    """Zeros at the right and the bottom, up to sides that ``divisor`` divides."""
    height, width = pixels.shape[-2:]
    return F.pad(pixels, (0, -width % divisor, 0, -height % divisor))
