"""Processes that share a batch must give what one gives for the whole batch.

This holds where the batch has as many positives as there are processes: each divides by their mean, but by 1 at least.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detclipv2.config import LossConfig, ModelConfig
from detclipv2.distributed import gather_objects, gather_with_grad, mean_over_ranks, rank, world_size
from detclipv2.losses.contrastive import contrastive_loss
from detclipv2.losses.hybrid import HybridObjective
from detclipv2.models.proposals import region_scores, select_proposals
from detclipv2.ops.word_region import best_region_similarity
from detclipv2.structures import Batch
from tests.detclipv2.ranks import run_ranks

SCRIPT = Path(__file__).with_name("one_rank.py")
NUM_ANCHORS = 86  # of a 64 px image
FIRST, SECOND = [4.0, 4, 36, 40], [30.0, 20, 60, 60]

Result = tuple[dict[str, float], dict[str, Tensor | None]]


def _load_script() -> Any:
    spec = importlib.util.spec_from_file_location("one_rank", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ONE_RANK = _load_script()


@pytest.fixture
def batches(make_batch: Callable[..., Batch]) -> dict[str, tuple[Batch, LossConfig]]:
    """Of six images each; the parts of two and of three processes have unequal numbers of boxes and texts."""
    concepts = [
        ["dog", "cat", "owl"],
        ["cat", "kite", "red car", "apple"],
        ["dog"],
        ["zebra"],
        ["owl"],
        ["a cat", "dog"],
    ]
    boxes = [[FIRST, SECOND], [SECOND], [FIRST], [], [SECOND], [SECOND, FIRST]]
    captions = [
        ["dog", "a dog"],
        ["owl", "kite", "red car", "an owl in a red car"],
        ["cat"],
        ["apple"],
        ["dog", "zebra", "two dogs and a zebra"],
        ["kite"],
    ]
    every_anchor = LossConfig(num_proposals=NUM_ANCHORS, proposal_nms_iou=1.0)
    return {
        "detection": (make_batch("detection", concepts, boxes), LossConfig()),
        "grounding": (make_batch("grounding", concepts, boxes), LossConfig()),
        "boxes in one process": (
            make_batch("detection", concepts, [[FIRST, SECOND], [SECOND], [], [], [], []]),
            LossConfig(),
        ),
        "all proposals": (make_batch("image_text", captions), every_anchor),
        "few proposals": (make_batch("image_text", captions), LossConfig(num_proposals=3)),
    }


def _losses(objective: HybridObjective, batch: Batch, *, world_size: int) -> dict[str, Tensor]:
    """What the objective gives for the whole batch, but with proposals chosen by the texts of each part alone."""
    if batch.supervision != "image_text":
        return objective(batch)
    detector, config = objective.detector, objective.config
    regions, masks = [], []
    for number in range(world_size):
        part = ONE_RANK.part_of(batch, number, world_size)
        output = detector(part.pixels, part.image_sizes_hw)
        texts = detector.text_encoder([text for texts in part.concepts for text in texts])
        scores = region_scores(output, texts, [range(len(texts))], score="text_batch")
        nms_iou = config.proposal_nms_iou
        proposals = select_proposals(output, scores, num_proposals=config.num_proposals, nms_iou=nms_iou)
        regions.append(proposals.embeddings)
        masks.append(proposals.mask)
    similarity = torch.stack(
        [
            best_region_similarity(detector.text_encoder(texts), torch.cat(regions), torch.cat(masks)).mean(0)
            for texts in batch.concepts
        ]
    )
    return {"contrastive": config.contrastive_weight * contrastive_loss(similarity)}


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_equal_one(
    world_size: int, tiny_config: ModelConfig, batches: dict[str, tuple[Batch, LossConfig]], tmp_path: Path
) -> None:
    config = replace(tiny_config, text_training="trained", region_norm="unit")
    torch.save((config, batches), tmp_path / "batches.pt")
    run_ranks(SCRIPT, tmp_path, world_size=world_size)
    results: list[dict[str, Result]] = [torch.load(tmp_path / f"{number}.pt") for number in range(world_size)]

    objective = ONE_RANK.build_objective(config)
    for name, (batch, loss_config) in batches.items():
        objective.config = loss_config
        objective.zero_grad(set_to_none=True)
        losses = _losses(objective, batch, world_size=world_size)
        torch.stack(list(losses.values())).sum().backward()
        ranks = [result[name] for result in results]
        for loss, value in losses.items():
            mean = sum(found[loss] for found, _ in ranks) / world_size
            assert mean == pytest.approx(float(value.detach()), rel=1e-5), f"{name}: {loss}"
        for key, parameter in objective.named_parameters():
            for _, gradients in ranks:
                _assert_same_gradient(gradients[key], parameter.grad, where=f"{name}: {key}")
    # Each process sees the loss of its own part.
    assert len({result["all proposals"][0]["contrastive"] for result in results}) == world_size


def _assert_same_gradient(found: Tensor | None, wanted: Tensor | None, *, where: str) -> None:
    if found is None or wanted is None:
        assert found is wanted, where
        return
    atol = 1e-5 * float(wanted.abs().max()) + 1e-9
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=atol, msg=lambda text: f"{where}: {text}")


def test_collectives_are_the_identity_in_one_process() -> None:
    tensor = torch.tensor([1.0, 3.0], requires_grad=True)

    assert (rank(), world_size()) == (0, 1)
    assert gather_with_grad(tensor) is tensor
    assert gather_objects(["a", 1]) == [["a", 1]]
    mean = mean_over_ranks(tensor.sum())
    assert float(mean) == 4.0
    assert not mean.requires_grad
