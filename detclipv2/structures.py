"""Data structures that pass between the parts of the detector.

Shapes: B images, K anchors of an image over all levels, D embedding width, N boxes of an image.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detclipv2.config import Supervision


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images of one supervision type with their texts.

    Raises:
        ValueError: a pixel or a box is not finite, a label has no concept, or a concept is empty; the message names the key.
    """

    supervision: Supervision
    keys: list[str]
    # [B, 3, H, W], padded with zeros at the right and the bottom: uint8 from the loader, float in [0, 1] for the network
    pixels: Tensor
    image_sizes_hw: list[tuple[int, int]]  # before padding
    boxes_xyxy: list[Tensor]  # B x [N, 4] in pixels
    labels: list[Tensor]  # B x [N], index into concepts of the image
    concepts: list[list[str]]  # B x M distinct texts: positives first, then negatives

    def __post_init__(self) -> None:
        """Refuse what would become a NaN loss, where it is cheap: on the CPU, where batches are made."""
        if self.pixels.device.type != "cpu":
            return
        for index, key in enumerate(self.keys):
            where = f"{self.supervision} sample {key!r}"
            # A sum is finite where all pixels are, and a twentieth of the time of looking at each.
            if self.pixels.is_floating_point() and not torch.isfinite(self.pixels[index].sum(dtype=torch.float64)):
                raise ValueError(f"{where}: a pixel is not finite; leave the image out")
            if not torch.isfinite(self.boxes_xyxy[index]).all():
                raise ValueError(f"{where}: a box is not finite; leave it out")
            labels, concepts = self.labels[index], self.concepts[index]
            wrong = labels[(labels < 0) | (labels >= len(concepts))]
            if len(wrong):
                raise ValueError(f"{where}: label {int(wrong[0])}, but it has {len(concepts)} concept(s)")
            if not all(text.strip() for text in concepts):
                raise ValueError(f"{where}: concept number {[bool(t.strip()) for t in concepts].index(False)} is empty")

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its tensors on ``device``; the detector converts uint8 to float, for as many as it is given."""
        return replace(
            self,
            pixels=self.pixels.to(device, non_blocking=True),
            boxes_xyxy=[boxes.to(device, non_blocking=True) for boxes in self.boxes_xyxy],
            labels=[labels.to(device, non_blocking=True) for labels in self.labels],
        )

    def split(self, size: int) -> list["Batch"]:
        """Parts of ``size`` images each, the last of which may have fewer; all keep the canvas of the whole."""
        parts = [slice(start, start + size) for start in range(0, len(self.keys), size)]
        return [
            replace(
                self,
                keys=self.keys[part],
                pixels=self.pixels[part],
                image_sizes_hw=self.image_sizes_hw[part],
                boxes_xyxy=self.boxes_xyxy[part],
                labels=self.labels[part],
                concepts=self.concepts[part],
            )
            for part in parts
        ]

    def pin_memory(self) -> "Batch":
        """The same batch with pixels that a GPU can fetch while the processor goes on."""
        return replace(self, pixels=self.pixels.pin_memory())

    def __getstate__(self) -> dict[str, Any]:
        """Boxes and labels as arrays: PyTorch would send each between processes in a file of shared memory of its own."""
        arrays = {name: [tensor.numpy() for tensor in getattr(self, name)] for name in ("boxes_xyxy", "labels")}
        return vars(self) | arrays

    def __setstate__(self, state: dict[str, Any]) -> None:
        tensors = {name: [torch.from_numpy(array) for array in state[name]] for name in ("boxes_xyxy", "labels")}
        self.__dict__.update(state | tensors)


def float_pixels(pixels: Tensor) -> Tensor:
    """uint8 pixels [B, 3, H, W] as float in [0, 1]; float ones as they are."""
    if pixels.is_floating_point():
        return pixels
    if pixels.device.type != "cpu":
        return pixels.float().div_(255)
    # NumPy computes the same in one pass, into huge pages: half the time.
    return torch.from_numpy(np.divide(pixels.numpy(), np.float32(255), dtype=np.float32))


@dataclass(frozen=True, kw_only=True)
class HeadMaps:
    """What the head says of every anchor, levels concatenated from the finest to the coarsest, in fp32."""

    embeddings: Tensor  # [B, K, D] region embeddings f^P
    box_deltas: Tensor  # [B, K, 4]
    centerness: Tensor  # [B, K] logits
    objectness: Tensor | None = None  # [B, K] logits of a class-agnostic score, where the head has one


@dataclass(frozen=True, kw_only=True)
class HeadOutput(HeadMaps):
    """The head's maps with the anchors that they are of."""

    anchors_xyxy: Tensor  # [K, 4]
    num_anchors: list[int]  # of each level; sums to K
    valid: Tensor  # [B, K] bool: the anchor's centre is on the image, which ends at the next multiple of 32 px


@dataclass(frozen=True, kw_only=True)
class Detections:
    """Detections of one image, best first."""

    boxes_xyxy: Tensor  # [N, 4] in pixels
    scores: Tensor  # [N] in 0..1
    labels: Tensor  # [N], index into the names that were asked for
