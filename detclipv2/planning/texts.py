"""The texts of a step: how many there are, and what one costs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch.autograd.graph import saved_tensors_hooks

from detclipv2.build import build_text_encoder
from detclipv2.config import ModelConfig, Supervision, TrainConfig
from detclipv2.models.text_encoder import TextEncoder
from detclipv2.planning.passes import PassFlops, counted_flops
from detclipv2.planning.saved import SavedTensors


@dataclass(frozen=True, kw_only=True)
class DataSize:
    """What of a dataset a plan depends on."""

    num_samples: int
    # Distinct texts that the concepts of boxed images are drawn from.
    num_concepts: int = 0
    # Noun phrases of an image-text pair; its caption comes on top where it counts as a concept.
    phrases_per_sample: float = 0.0


PHRASES_PER_PAIR = 5.0  # of a caption of the web, about
# Table 1 of arXiv:2304.04514: Objects365's subset, GoldG without COCO, CC3M and CC12M. Concepts: Objects365's categories; the
# paper's dictionary.
PAPER_DATA: dict[Supervision, DataSize] = {
    "detection": DataSize(num_samples=660_000, num_concepts=365),
    "grounding": DataSize(num_samples=770_000, num_concepts=14_000),
    "image_text": DataSize(num_samples=13_000_000, phrases_per_sample=PHRASES_PER_PAIR),
}


def distinct_texts(
    train: TrainConfig,
    supervision: Supervision,
    *,
    sizes: Mapping[Supervision, DataSize] | None = None,
    world_size: int,
) -> int:
    """Distinct texts that a step of a type is expected to have over all processes.

    Concepts of a boxed image are taken to be drawn evenly from all there are, without repetition; texts of pairs, captions
    above all, are taken not to repeat.
    """
    size = (sizes or PAPER_DATA)[supervision]
    settings = train.supervisions()[supervision]
    num_images = settings.samples_per_worker(world_size) * world_size
    if supervision == "image_text":
        return max(1, round(num_images * (size.phrases_per_sample + train.loss.caption_as_concept)))
    absent = max(0.0, 1 - max(1, settings.num_concepts) / max(1, size.num_concepts))  # from one image
    return max(1, round(size.num_concepts * (1 - absent**num_images)))


def encoded_texts(model: ModelConfig, supervision: Supervision, num_texts: int) -> int:
    """How many texts of a step the encoder has to read.

    A frozen one remembers: categories and concepts of the dictionary come again, captions do not.
    """
    return 0 if model.text_training == "frozen" and supervision != "image_text" else num_texts


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

    Args:
        model: the network.
        precision: "bf16" for autocast.

    Raises:
        ValueError: the configuration names weights that are not there.
    """
    if model.text_encoder == "clip" and model.text_weights != "random":
        model = replace(model, text_weights="random")  # of the base size, as those of CLIP ViT-B and FILIP-base are
    with torch.random.fork_rng(devices=[]):  # whoever counts in the middle of something keeps their random numbers
        encoder = build_text_encoder(model).train()
        plain = encoder
        if model.gradient_checkpointing:
            plain = build_text_encoder(replace(model, gradient_checkpointing=False)).train()
        flops = text_flops(plain, num_texts=2)
        again = text_flops(encoder, num_texts=2).backward / 2
        few, more = (_saved_bytes(encoder, num_texts=count, precision=precision) for count in (4, 8))
    return TextCost(
        forward=flops.forward / 2,
        backward=flops.backward / 2,
        recomputed=again - flops.backward / 2,
        saved_bytes=(more - few) / 4,
        fixed_bytes=few - (more - few),
    )


def text_flops(encoder: TextEncoder, *, num_texts: int) -> PassFlops:
    """FLOPs of encoding texts of the longest length, counted on real ones."""
    texts = _longest_texts(encoder, num_texts)
    with counted_flops() as counter:
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
