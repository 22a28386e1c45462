from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from detclipv2.config import ModelConfig, SupervisionConfig, TrainConfig
from detclipv2.models.clip_text_encoder import ClipTextArchitecture, ClipTextEncoder
from detclipv2.planning.flops import PassFlops, encoder_flops, fake_detector, image_flops, text_flops

BOXED = SupervisionConfig(batch_size=2, image_size=64, num_concepts=10)
PAIRS = SupervisionConfig(batch_size=4, image_size=64)
TRAIN = TrainConfig(epochs=1, detection=BOXED, grounding=BOXED, image_text=PAIRS)


def test_a_pass_is_the_sum_of_its_parts() -> None:
    assert PassFlops(forward=2, backward=4).total == 6


def test_head_and_neck_equal_hand_computed_convolutions(tiny_config: ModelConfig) -> None:
    """tiny_config: 16 channels, towers of one convolution, D = 16; images of 64 px have 8x8, 4x4, 2x2, 1x1 and 1x1 cells."""
    cells = 64 + 16 + 4 + 1 + 1
    # Two towers, the guide's 27 channels, the deformable product, embeddings, boxes and centerness: all 3x3 of 16 channels.
    head = 2 * 9 * 16 * (16 + 16 + 27 + 16 + 16 + 4 + 1) * cells
    detector = fake_detector(tiny_config, device="cpu").detector
    c3, c4, c5 = detector.backbone.channels
    # Lateral 1x1 convolutions, 3x3 ones on three levels, and those of P6 and P7.
    neck = 2 * 16 * (c3 * 64 + c4 * 16 + c5 * 4) + 2 * 9 * 16 * 16 * (64 + 16 + 4 + 1 + 1)

    counted = image_flops(tiny_config, TRAIN, "detection", num_texts=5)

    assert counted.num_anchors == cells
    assert counted.head.forward == head
    assert counted.head.backward == 2 * head  # by weight and by input
    assert counted.neck.forward == neck
    assert counted.losses == 3 * 2 * 16 * cells * 5  # S, and its gradients by regions and by texts


def test_pairs_and_phrases_leave_box_and_centerness_predictors_without_backward_pass(tiny_config: ModelConfig) -> None:
    counted = image_flops(tiny_config, TRAIN, "grounding", num_texts=5)

    predictors = 2 * 9 * 16 * (4 + 1) * counted.num_anchors
    assert counted.head.backward == 2 * (counted.head.forward - predictors)


def test_contrastive_loss_counts_each_text_against_each_proposal(tiny_config: ModelConfig) -> None:
    train = replace(TRAIN, loss=replace(TRAIN.loss, num_proposals=7))
    free = replace(train, loss=replace(train.loss, proposal_score="centerness"))

    counted, without_scores = (image_flops(tiny_config, one, "image_text", num_texts=30) for one in (train, free))

    # Its backward pass looks up the regions that were best.
    assert without_scores.losses == 2 * 16 * 7 * 30
    assert counted.losses - without_scores.losses == 2 * 16 * counted.num_anchors * 30


def test_swin_t_has_the_flops_that_its_paper_gives() -> None:
    """4.5 G multiplications and additions at 224 px, less the classifier, which a detector has not (arXiv:2103.14030)."""
    model = ModelConfig(
        backbone="swin_tiny_patch4_window7_224", backbone_weights="random", drop_path=0.2, text_encoder="clip"
    )
    train = TrainConfig(epochs=1, detection=replace(BOXED, image_size=224), grounding=None, image_text=None)

    counted = image_flops(model, train, "detection", num_texts=1)

    assert counted.backbone.forward / 2 == pytest.approx(4.5e9, rel=0.01)
    assert counted.backbone.backward == pytest.approx(2 * counted.backbone.forward, rel=0.01)


def test_checkpointing_computes_the_backbone_s_blocks_again(tiny_config: ModelConfig) -> None:
    plain, again = (
        image_flops(replace(tiny_config, gradient_checkpointing=switch), TRAIN, "detection", num_texts=1)
        for switch in (False, True)
    )

    assert plain.recomputed == 0
    assert 0.5 * plain.backbone.forward < again.recomputed <= plain.backbone.forward
    assert again.model == plain.model


def test_deformable_convolution_counts_as_a_convolution_of_its_size() -> None:
    with FlopCounterMode(display=False) as counter:
        torch.nn.functional.conv2d(torch.zeros(1, 16, 8, 8), torch.zeros(16, 16, 3, 3), padding=1)
    base = ModelConfig(
        backbone="lcnet_035",
        backbone_weights="random",
        channels=16,
        num_tower_convs=1,
        norm_groups=4,
        text_encoder="clip",
    )

    on, off = (
        image_flops(replace(base, deformable=switch), TRAIN, "detection", num_texts=1).head.forward
        for switch in (True, False)
    )

    guide = 2 * 9 * 16 * 27
    assert on - off == (counter.get_total_flops() / 64 + guide) * 86


def test_gradient_caching_takes_one_more_forward_pass(tiny_config: ModelConfig) -> None:
    cached = replace(TRAIN, image_text=replace(PAIRS, global_batch_size=64))

    plain, twice = (image_flops(tiny_config, one, "image_text", num_texts=8) for one in (TRAIN, cached))

    assert twice.recomputed - plain.recomputed == plain.forward
    assert twice.model == plain.model


def test_counting_leaves_the_random_numbers_alone(tiny_config: ModelConfig) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)

    image_flops(replace(tiny_config, norm_groups=2), TRAIN, "detection", num_texts=5)
    text_flops(replace(tiny_config, norm_groups=2))

    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("checkpointing", [True, False])
def test_a_text_costs_what_its_transformer_does(checkpointing: bool) -> None:
    """A layer of width W: four W x W products, two with 4 W x W, for each of 16 tokens; attention itself besides."""
    architecture = ClipTextArchitecture(width=64, num_layers=2, num_heads=2)
    encoder = ClipTextEncoder(
        architecture, embed_dim=32, training_mode="trained", gradient_checkpointing=checkpointing
    ).train()
    products = 2 * 2 * 16 * 64 * 64 * (4 + 8) + 2 * 64 * 32
    attention = 2 * 2 * 2 * 16 * 16 * 64

    counted = encoder_flops(encoder, num_texts=3)

    assert counted.forward == 3 * (products + attention)
    again = counted.backward - 2 * counted.forward
    assert again == 0 if not checkpointing else 0.6 * counted.forward < again < counted.forward


def test_a_frozen_encoder_has_no_backward_pass_but_the_projection_s(tiny_config: ModelConfig) -> None:
    assert text_flops(tiny_config).backward == 2 * 32 * 16  # of the projection's weight
