"""Recipes of the demo: two CPU cores, a few minutes, and the real code path from end to end."""

from dataclasses import replace

from detclipv2.config import LossConfig, ModelConfig, OptimConfig, SupervisionConfig, TrainConfig
from ray_jobs.job_config import JobConfig

# The first blocks, which hold generic edges, and the depthwise convolutions of the rest, whose weight gradient is slow on a
# CPU (a quarter of a training step) and whose spatial filters fit any image; the pointwise convolutions learn.
FROZEN = (
    "conv_stem",
    "blocks.0",
    "blocks.1",
    *(
        f"blocks.{stage}.{block}.conv_dw"
        for stage, depth in ((2, 2), (3, 3), (4, 3), (5, 4), (6, 1))
        for block in range(depth)
    ),
)


def pretrain() -> JobConfig:
    """Pre-train on the demo: `python ray_jobs/pretrain.py demo:pretrain` (2 CPU cores; figures in README.md)."""
    return JobConfig(
        model=ModelConfig(
            frozen_modules=FROZEN,
            drop_path=0.0,
            channels=64,
            num_tower_convs=2,
            norm_groups=16,
            embed_dim=128,
            anchor_scale=4.0,
            region_norm="unit",
        ),
        train=TrainConfig(
            num_steps=720,
            image_text_after=160,
            detection=SupervisionConfig(batch_size=8, image_size=112, num_concepts=150),
            grounding=SupervisionConfig(batch_size=8, image_size=112, num_concepts=100, dictionary_share=0.1),
            image_text=SupervisionConfig(batch_size=16, image_size=112),
            loss=LossConfig(contrastive_weight=0.5, num_proposals=50, caption_as_concept=False),
            optim=OptimConfig(learning_rate=2e-3, backbone_learning_rate_factor=0.2, warmup_steps=50),
            log_every=10,
            checkpoint_every=50,
        ),
    )


def without_image_text() -> JobConfig:
    """The same budget of steps without image-text pairs: what the pairs are worth (benchmarks/image_text_gain.py)."""
    full = pretrain()
    return replace(full, train=replace(full.train, image_text=None))
