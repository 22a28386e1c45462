"""Fine-tuning recipes for a model folder on boxes of one's own (Tables 10 and 11 of arXiv:2304.04514).

`python ray_jobs/finetune.py finetune:lvis --model FOLDER --data MANIFEST`. The network, its text encoder and its concept
dictionary are the model's: what a recipe says of the network does not count.
"""

from dataclasses import replace

from detclipv2.config import OptimConfig, TrainConfig
from ray_jobs.job_config import JobConfig
from ray_jobs.recipes.detclipv2_t import boxed


def lvis() -> JobConfig:
    """LVIS, Table 10: 24 epochs on 16 V100; ours not yet measured.

    The paper's Fixed AP on minival after it: 50.7 (T), 60.1 (L).
    """
    return JobConfig(
        train=TrainConfig(
            epochs=24,
            detection=boxed(num_concepts=150),
            grounding=None,
            image_text=None,
            # 4e-5 at a batch of 64.
            optim=OptimConfig(
                learning_rate=4e-5, reference_batch_size=64, text_learning_rate_factor=0.1, warmup_steps=1000
            ),
            precision="bf16",
            log_every=50,
            checkpoint_every=1000,
            loader_workers=8,
        ),
        num_workers=16,
        use_gpu=True,
    )


def odinw() -> JobConfig:
    """One of ODinW's 13 datasets, Table 11: batch 32 on 8 V100, at most 250 epochs; ours not yet measured.

    The paper's AP over the 13 after it: 68.5 (T), 70.4 (L). Differs from the paper: its rate falls tenfold after 5 epochs without
    gain on the validation set, and training ends after 8 without gain once it is 1e-8 ("auto-step"). Neither is there: nothing
    is evaluated during training. The rate falls as a cosine over 50 epochs instead; on a few hundred images, try
    `--train.epochs` 10 and 100 too.
    """
    job = lvis()
    return replace(
        job,
        train=replace(
            job.train,
            epochs=50,
            # 4e-5 at a batch of 32; the text encoder's is 4e-7.
            optim=OptimConfig(
                learning_rate=4e-5, reference_batch_size=32, text_learning_rate_factor=0.01, warmup_steps=500
            ),
            log_every=10,
            checkpoint_every=500,
        ),
        num_workers=8,
    )


def coco() -> JobConfig:
    """COCO: the settings of Table 10 for 12 epochs; the paper has no such figure, and ours is not yet measured."""
    job = lvis()
    return replace(job, train=replace(job.train, epochs=12))


def small() -> JobConfig:
    """A few hundred photos on two CPU cores or one GPU, from the demo's model or any other: docs/recipes.md has the figures."""
    job = lvis()
    assert job.train.detection is not None
    return replace(
        job,
        train=replace(
            job.train,
            epochs=12,
            detection=replace(
                job.train.detection, image_size=224, shorter_size=None, batch_size=8, scale_jitter=(0.7, 1.0)
            ),
            optim=OptimConfig(learning_rate=5e-4, backbone_learning_rate_factor=0.2, warmup_steps=20),
            precision="fp32",
            log_every=10,
            checkpoint_every=100,
            loader_workers=0,
        ),
        num_workers=2,
        use_gpu=False,
    )
