"""Detect whatever you can name, in three lines.

Example::

    predictor = Predictor.from_pretrained("outputs/model")
    detections = predictor(Image.open("photo.jpg"), names=["red apple", "guitar"])
    print(detections.boxes_xyxy, detections.scores, detections.labels)
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from detclipv2.data.transforms import pad_to_canvas
from detclipv2.hub import load_pretrained
from detclipv2.models.detector import DetCLIPv2
from detclipv2.models.postprocess import postprocess
from detclipv2.structures import Detections


class Predictor:
    """A trained detector, ready for pictures and names.

    Args:
        detector: trained weights; it is put in evaluation mode.
        image_size: pictures are resized so that their longer side is this many pixels.
        device: where to compute.
    """

    def __init__(self, detector: DetCLIPv2, *, image_size: int, device: str | torch.device = "cpu") -> None:
        self.detector = detector.to(device).eval()
        self.image_size = image_size
        self.device = torch.device(device)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str | torch.device = "cpu") -> "Predictor":
        """A predictor from what ``save_pretrained`` wrote.

        Raises:
            ValueError: there is no model in the folder, or one of another layout.
        """
        pretrained = load_pretrained(Path(folder))
        return cls(pretrained.detector, image_size=pretrained.image_size, device=device)

    @torch.inference_mode()
    def encode_names(self, names: Sequence[str]) -> Tensor:
        """Text embeddings [M, D] of names, to be used for many pictures.

        Raises:
            ValueError: there are no names, or one is empty.
        """
        if not names:
            raise ValueError("no names to look for: give at least one, such as 'red apple'")
        blank = [index for index, name in enumerate(names) if not name.strip()]
        if blank:
            raise ValueError(f"name number {blank[0] + 1} of {len(names)} is empty")
        return self.detector.text_encoder([name.strip() for name in names])

    @torch.inference_mode()
    def __call__(
        self,
        image: Image.Image,
        *,
        names: Sequence[str] | Tensor,
        score_threshold: float = 0.0,
        max_detections: int = 300,
    ) -> Detections:
        """Detections in pixels of ``image``, best first.

        Args:
            image: any mode and size; turned upright first where its EXIF data say so.
            names: what to look for, or the embeddings of it from ``encode_names``.
            score_threshold: weaker detections are left out.
            max_detections: most that are returned.
        """
        texts = names if isinstance(names, Tensor) else self.encode_names(names)
        upright = ImageOps.exif_transpose(image).convert("RGB")
        factor = self.image_size / max(upright.size)
        size_hw = (max(1, round(upright.height * factor)), max(1, round(upright.width * factor)))
        resized = F.resize(F.pil_to_tensor(upright), list(size_hw), antialias=True)
        # The canvas of training: group normalisation sees the padding too.
        pixels = pad_to_canvas([resized], (self.image_size, self.image_size)).to(self.device)
        output = self.detector(pixels, [size_hw])
        found = postprocess(
            output,
            self.detector.logits(output.embeddings, texts.to(self.device)),
            image_sizes_hw=[size_hw],
            score_threshold=score_threshold,
            max_detections=max_detections,
        )[0]
        scale = torch.tensor([upright.width / size_hw[1], upright.height / size_hw[0]], device=self.device).repeat(2)
        return replace(found, boxes_xyxy=found.boxes_xyxy * scale)
