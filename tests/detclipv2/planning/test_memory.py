from dataclasses import replace

import pytest
import torch

from detclipv2.build import build_detector
from detclipv2.config import ModelConfig, SupervisionConfig, TrainConfig
from detclipv2.planning.memory import (
    SavedTensors,
    activation_bytes,
    image_bytes,
    largest_block_bytes,
    model_size,
    step_memory,
)

SIZE = (64, 96)


def test_a_storage_counts_once_and_parameters_do_not() -> None:
    weight = torch.zeros(4, 4, requires_grad=True)
    tensors = SavedTensors(but=[weight])
    x = torch.ones(8, 4)
    with tensors.hooks():
        y = x @ weight  # saves x and the weight
        (y * y).sum()  # saves y twice

    assert tensors.num_bytes == x.nbytes + y.nbytes


def test_fake_tensors_save_as_much_as_real_ones(tiny_config: ModelConfig) -> None:
    detector = build_detector(tiny_config).train()
    tensors = SavedTensors(but=detector.parameters())
    with tensors.hooks():
        pixels = torch.rand(2, 3, *SIZE).contiguous(memory_format=torch.channels_last)
        maps = detector.head(detector.neck(detector.backbone(pixels)))
    for output in (maps.embeddings, maps.box_deltas, maps.centerness):
        tensors.add(output)

    assert image_bytes(tiny_config, SIZE, batch_size=2, precision="fp32", device="cpu") == tensors.num_bytes


def test_memory_grows_in_a_straight_line_and_checkpointing_saves_some(tiny_config: ModelConfig) -> None:
    line = activation_bytes(tiny_config, SIZE, precision="bf16", device="cuda")
    block = largest_block_bytes(tiny_config, SIZE, precision="bf16", device="cuda")
    checkpointed = replace(tiny_config, gradient_checkpointing=True)
    again = activation_bytes(checkpointed, SIZE, precision="bf16", device="cuda")

    measured = image_bytes(tiny_config, SIZE, batch_size=7, precision="bf16", device="cuda")

    assert line.of(7) == pytest.approx(measured, rel=0.001)
    assert line.each_recomputed == 0
    assert again.each_recomputed == block > 0
    assert again.of(7) < 0.75 * measured


def test_half_precision_saves_memory_where_images_outweigh_the_casts_of_the_weights(tiny_config: ModelConfig) -> None:
    half, full = (
        image_bytes(tiny_config, (256, 256), batch_size=2, precision=precision, device="cuda")
        for precision in ("bf16", "fp32")
    )

    assert 0.5 * full < half < 0.95 * full


def test_parts_that_follow_from_the_parameters(tiny_config: ModelConfig) -> None:
    pairs = SupervisionConfig(batch_size=4, image_size=64)
    train = TrainConfig(num_steps=1, detection=None, grounding=None, image_text=pairs)
    with_average = replace(train, optim=replace(train.optim, ema_decay=0.99))
    size = model_size(tiny_config)
    detector = build_detector(tiny_config)

    alone = step_memory(tiny_config, train, "image_text", num_texts=10, world_size=1).parts
    together = step_memory(tiny_config, with_average, "image_text", num_texts=10, world_size=2).parts

    trained = sum(parameter.numel() for parameter in detector.parameters() if parameter.requires_grad)
    assert size.num_parameters == sum(parameter.numel() for parameter in detector.parameters())
    assert size.num_trained == trained
    assert alone["weights"] == 4 * size.num_parameters
    assert alone["optimizer"] == 8 * trained  # AdamW's two moments
    assert (alone["gradients"], together["gradients"]) == (4 * trained, 8 * trained)
    assert (alone["moving average"], together["moving average"]) == (0, 4 * size.num_parameters)
    assert together["texts"] < alone["texts"]
