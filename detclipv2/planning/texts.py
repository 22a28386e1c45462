"""The texts of a step: how many there are, and what one costs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from detclipv2.build import build_text_encoder
from detclipv2.config import ModelConfig, Supervision, TrainConfig
from detclipv2.models.text_encoder import TextEncoder
from detclipv2.planning.passes import PassFlops
from detclipv2.planning.saved import SavedTensors


@dataclass(frozen=True, kw_only=True)
class DataSize:
    """What of a dataset a plan depends on."""

    num_samples: int
    # Distinct texts that the concepts of boxed pictures are drawn from.
    num_concepts: int = 0
    # Texts of an image-text pair: its phrases and, if that counts as one, its caption.
    texts_per_sample: float = 0.0


# Table 1 of arXiv:2304.04514: Objects365's subset, GoldG without COCO, CC3M and CC12M. Concepts: Objects365's categories; the
# paper's dictionary. Texts a pair: the caption and some five noun phrases.
PAPER_DATA: dict[Supervision, DataSize] = {
    "detection": DataSize(num_samples=660_000, num_concepts=365),
    "grounding": DataSize(num_samples=770_000, num_concepts=14_000),
    "image_text": DataSize(num_samples=13_000_000, texts_per_sample=6.0),
}


def distinct_texts(
    train: TrainConfig,
    supervision: Supervision,
    *,
    sizes: Mapping[Supervision, DataSize] | None = None,
    world_size: int,
) -> int:
    """Distinct texts that a step of a type is expected to have over all processes.

    Concepts of boxed pictures are taken to be drawn evenly from all there are; those of pairs, captions above all, not to repeat.
    """
    size = (sizes or PAPER_DATA)[supervision]
    settings = train.supervisions()[supervision]
    num_images = settings.samples_per_worker(world_size) * world_size
    if supervision == "image_text":
        return round(num_images * size.texts_per_sample)
    if size.num_concepts <= 1:
        return 1
    draws = num_images * max(1, settings.num_concepts)
    return round(-size.num_concepts * math.expm1(draws * math.log1p(-1 / size.num_concepts)))


@dataclass(frozen=True, kw_only=True)
class TextCost:
    """Cost of one text of the longest length that is not cut."""

    forward: float  # FLOPs
    backward: float  # FLOPs
    recomputed: float  # FLOPs of gradient checkpointing: no model FLOPs
    saved_bytes: float  # of activations, for the backward pass
    fixed_bytes: float  # of that, whatever the number of texts

    @property
    def model(self) -> float:
        """Model FLOPs of both passes."""
        return self.forward + self.backward


@cache
def text_cost(model: ModelConfig, *, precision: str = "fp32") -> TextCost:
    """What a text costs, counted and measured on a few real ones.

    A frozen encoder remembers what it has encoded: its texts cost this once, and the projection alone after that.

    Args:
        model: the network.
        precision: "bf16" for autocast.

    Raises:
        ValueError: the configuration names weights that are not there.
    """
    if model.text_encoder == "clip" and model.text_weights != "random":
        model = replace(model, text_weights="random")  # of the base size, as those of CLIP ViT-B and FILIP-base are
    encoder = build_text_encoder(model).train()
    plain = encoder
    if model.gradient_checkpointing == "on":
        plain = build_text_encoder(replace(model, gradient_checkpointing="off")).train()
    flops = text_flops(plain, num_texts=2)
    few, more = (_saved_bytes(encoder, num_texts=count, precision=precision) for count in (4, 8))
    return TextCost(
        forward=flops.forward / 2,
        backward=flops.backward / 2,
        recomputed=0.0 if plain is encoder else (text_flops(encoder, num_texts=2).backward - flops.backward) / 2,
        saved_bytes=(more - few) / 4,
        fixed_bytes=few - (more - few),
    )


def text_flops(encoder: TextEncoder, *, num_texts: int) -> PassFlops:
    """FLOPs of encoding texts of the longest length, counted on real ones."""
    texts = _longest_texts(encoder, num_texts)
    # Of the kernels for attention the counter knows some; by way of matrix products it counts all.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        embeddings = encoder(texts)
        forward = counter.get_total_flops()
        embeddings.sum().backward()
    return PassFlops(forward=forward, backward=counter.get_total_flops() - forward)


def _saved_bytes(encoder: TextEncoder, *, num_texts: int, precision: str) -> int:
    saved = SavedTensors(but=encoder.parameters())
    with (
        saved_tensors_hooks(saved.pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
    ):
        embeddings = encoder(_longest_texts(encoder, num_texts))
    assert embeddings.requires_grad
    return saved.num_bytes


def _longest_texts(encoder: TextEncoder, num_texts: int) -> list[str]:
    """Distinct texts that an encoder cuts."""
    return [" ".join([chr(ord("a") + number)] * encoder.max_tokens) for number in range(num_texts)]
