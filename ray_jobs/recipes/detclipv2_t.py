"""Recipe of DetCLIPv2-T in the paper's size (Table 9 of arXiv:2304.04514), and what the larger model shares with it."""

from pathlib import Path

from detclipv2.config import OptimConfig, SupervisionConfig, TrainConfig
from detclipv2.presets import detclipv2_t
from ray_jobs.job_config import JobConfig


def boxed(*, num_concepts: int) -> SupervisionConfig:
    """Detection and grounding: 4 images a GPU of 1333 x 800, the shorter side drawn from 480 to 800 (U13 in docs/method.md)."""
    return SupervisionConfig(
        batch_size=4, image_size=1333, shorter_size=800, num_concepts=num_concepts, scale_jitter=(0.6, 1.0)
    )


def table9(*, image_text_batch_size: int) -> TrainConfig:
    """Pre-training, but for the pairs that a GPU takes at a time: with fewer GPUs, each takes its share in several parts."""
    return TrainConfig(
        epochs=12,
        detection=boxed(num_concepts=150),
        grounding=boxed(num_concepts=100),
        image_text=SupervisionConfig(batch_size=image_text_batch_size, global_batch_size=6144, image_size=320),
        # 2.8e-4 at 128 boxed images a step, 4e-4 at 256: the root of the batch over 16.
        optim=OptimConfig(
            learning_rate=1e-4,
            reference_batch_size=16,
            text_learning_rate_factor=0.1,
            weight_decay=0.05,
            warmup_steps=1000,
            clip_grad_norm=1.0,
        ),
        precision="bf16",
        log_every=50,
        # Some half an hour on 32 V100.
        checkpoint_every=1000,
        loader_workers=8,
        prefetch_batches=4,
    )


def pretrain() -> JobConfig:
    """Pre-train DetCLIPv2-T: `ray job submit -- python ray_jobs/pretrain.py detclipv2_t:pretrain`.

    Hardware: 32 GPUs; `--num-workers 8` trains on 8, with the same contrastive batch of 6,144 pairs and boxed batches of 4 a
    GPU, for which the learning rate follows. Hours: the paper's 2,100 on V100; ours not yet measured (docs/recipes.md has
    what `detclip plan --recipe detclipv2_t:pretrain` expects). Fixed AP on LVIS minival, zero-shot: the paper's 40.4; ours not
    yet measured.
    """
    return JobConfig(
        model=detclipv2_t(),
        train=table9(image_text_batch_size=192),
        data=Path("outputs/data/datasets/detclipv2/MANIFEST.json"),  # of `ray_jobs/build_dataset.py --scale detclipv2`
        concept_dictionary=Path("concepts.json"),  # of `detclip dictionary`
        num_workers=32,
        use_gpu=True,
        max_failures=20,
    )
