from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

from detclipv2.config import LossConfig, ModelConfig, Supervision, SupervisionConfig, TrainConfig
from detclipv2.losses.hybrid import HybridObjective
from detclipv2.losses.pool import concept_pool
from detclipv2.models.detector import DetCLIPv2
from detclipv2.models.text_encoder import packaged_minilm
from detclipv2.structures import Batch, HeadOutput
from detclipv2.training import accumulation as accumulation_module
from detclipv2.training.accumulation import Accumulation, seed_torch
from detclipv2.training.learner import Learner
from tests.detclipv2.ranks import run_ranks

SCRIPT = Path(__file__).with_name("accumulation_rank.py")
FIRST, SECOND = [4.0, 4, 36, 40], [30.0, 20, 60, 60]
CONCEPTS = [
    ["dog", "cat", "owl"],
    ["cat", "kite", "red car", "apple"],
    ["dog", "a dog"],
    ["zebra"],
    ["owl"],
    ["a cat", "dog"],
    ["two kites", "kite"],
    ["an apple beside a red car", "apple", "red car"],
]
BOXES = [[FIRST, SECOND], [SECOND], [], [], [SECOND], [SECOND, FIRST], [FIRST], []]
SEED = (3, 14, 0)
# Neighbouring anchors have an IoU of 0.6: at that threshold rounding decides which of them NMS keeps.
CONFIG = LossConfig(num_proposals=20, proposal_nms_iou=0.5)

Gradients = dict[str, Tensor | None]
MakeBatch = Callable[..., Batch]
Build = Callable[..., DetCLIPv2]


@pytest.fixture(scope="session")
def dropout_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text encoder with dropout."""
    folder = tmp_path_factory.mktemp("text_encoder_with_dropout")
    AutoTokenizer.from_pretrained(packaged_minilm()).save_pretrained(folder)
    AutoConfig.from_pretrained(
        packaged_minilm(), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    ).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def few_texts_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accumulation_module, "TEXTS_AT_A_TIME", 3)


def _batch(make_batch: MakeBatch, supervision: Supervision) -> Batch:
    batch = make_batch(supervision, CONCEPTS, None if supervision == "image_text" else BOXES)
    sizes = [(64, 64)] * 7 + [(40, 64)]
    return replace(batch, image_sizes_hw=sizes)


def _in_parts(objective: HybridObjective, batch: Batch, *, part_size: int) -> tuple[dict[str, Tensor], Gradients]:
    objective.zero_grad(set_to_none=True)
    losses = Accumulation(objective, part_size=part_size, precision="fp32", seed=SEED).backward(batch)
    assert not any(loss.requires_grad for loss in losses.values())
    return losses, {name: parameter.grad for name, parameter in objective.named_parameters()}


def _whole(objective: HybridObjective, losses: dict[str, Tensor]) -> tuple[dict[str, Tensor], Gradients]:
    objective.zero_grad(set_to_none=True)
    torch.stack(list(losses.values())).sum().backward()
    return losses, {name: parameter.grad for name, parameter in objective.named_parameters()}


def _in_one_graph(objective: HybridObjective, batch: Batch, *, part_size: int) -> dict[str, Tensor]:
    """Losses of the whole batch, with the random states that the parts and chunks of texts have."""
    detector, pool, chunk = objective.detector, concept_pool(batch), accumulation_module.TEXTS_AT_A_TIME
    embeddings, outputs = [], []
    for start in range(0, len(pool.mine), chunk):
        seed_torch(*SEED, "texts", start)
        embeddings.append(detector.text_encoder(pool.mine[start : start + chunk]))
    for number, part in enumerate(batch.split(part_size)):
        seed_torch(*SEED, "images", number * part_size)
        outputs.append(detector(part.pixels, part.image_sizes_hw))
    texts = pool.gathered(torch.cat(embeddings))
    joined = {
        name: torch.cat([getattr(output, name) for output in outputs])
        for name in ("embeddings", "box_deltas", "centerness", "valid")
    }
    output: HeadOutput = replace(outputs[0], **joined)
    if batch.supervision == "image_text":
        return objective.image_text_losses(objective.proposals(output, texts, pool), texts, pool)
    return objective.boxed_losses(output, texts, objective.targets(batch, output, pool))


def _assert_equal(found: tuple[dict[str, Tensor], Gradients], wanted: tuple[dict[str, Tensor], Gradients]) -> None:
    assert [part.keys() for part in found] == [part.keys() for part in wanted]
    for name, loss in wanted[0].items():
        _assert_close(found[0][name], loss.detach(), where=name)
    for name, gradient in wanted[1].items():
        other = found[1][name]
        if gradient is None or other is None:
            assert gradient is other, name
        else:
            _assert_close(other, gradient, where=name)
    assert sum(gradient is not None and bool(gradient.any()) for gradient in wanted[1].values()) > 20


def _assert_close(found: Tensor, wanted: Tensor, *, where: str) -> None:
    atol = 1e-5 * float(wanted.abs().max()) + 1e-9
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=atol, msg=lambda text: f"{where}: {text}")


@pytest.mark.parametrize("supervision", ["detection", "image_text"])
@pytest.mark.parametrize("batch_size", [3, 8])
def test_the_weight_of_a_type_multiplies_its_losses_and_their_gradients(
    supervision: Supervision, batch_size: int, tiny_detector: Build, make_batch: MakeBatch
) -> None:
    """In parts, and in one go."""
    found: list[tuple[dict[str, Tensor], Gradients]] = []
    for weight in (1.0, 0.5):
        objective = HybridObjective(tiny_detector(region_norm="unit"), CONFIG)
        settings = SupervisionConfig(batch_size=batch_size, image_size=64, weight=weight)
        types: dict[str, SupervisionConfig | None] = {"detection": None, "grounding": None, "image_text": None}
        config = TrainConfig(num_steps=1, **types | {supervision: settings})
        learner = Learner(objective, objective, config=config, device=torch.device("cpu"), resume=None)
        losses = learner._backward(1, _batch(make_batch, supervision))
        found.append((losses, {name: parameter.grad for name, parameter in objective.named_parameters()}))

    (losses, gradients), half = found
    assert all(float(loss) > 0 for loss in losses.values())
    halved = {name: None if gradient is None else gradient / 2 for name, gradient in gradients.items()}
    _assert_equal(half, ({name: loss / 2 for name, loss in losses.items()}, halved))


@pytest.mark.parametrize("supervision", ["detection", "grounding", "image_text"])
@pytest.mark.parametrize(("part_size", "text_training"), [(1, "trained"), (3, "frozen")])
def test_parts_equal_the_whole(
    supervision: Supervision, part_size: int, text_training: str, tiny_detector: Build, make_batch: MakeBatch
) -> None:
    detector = tiny_detector(text_training=text_training, region_norm="unit", objectness=True)
    objective = HybridObjective(detector, CONFIG).train()
    batch = _batch(make_batch, supervision)

    wanted = _whole(objective, objective(batch))

    _assert_equal(_in_parts(objective, batch, part_size=part_size), wanted)


@pytest.mark.parametrize(
    ("supervision", "gradient_checkpointing"),
    [("detection", False), ("grounding", False), ("image_text", False), ("image_text", True)],
)
def test_parts_equal_the_whole_with_drop_path_and_dropout(
    supervision: Supervision,
    gradient_checkpointing: bool,
    tiny_detector: Build,
    make_batch: MakeBatch,
    dropout_folder: Path,
) -> None:
    detector = tiny_detector(
        backbone="mobilenetv3_small_050",
        drop_path=0.5,
        text_training="trained",
        text_weights=str(dropout_folder),
        gradient_checkpointing=gradient_checkpointing,
    )
    objective = HybridObjective(detector, CONFIG).train()
    batch = _batch(make_batch, supervision)

    wanted = _whole(objective, _in_one_graph(objective, batch, part_size=1))

    _assert_equal(_in_parts(objective, batch, part_size=1), wanted)
    # Something is drawn at random, or the test would show nothing.
    first, second = objective(batch), objective(batch)
    assert not any(torch.equal(first[name], second[name]) for name in wanted[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"proposal_score": "text_sample", "direction": "both"},
        {"proposal_score": "text_batch_centerness", "matching": "soft"},
        {"proposal_score": "iou", "matching": "max_box"},
        {"proposal_score": "foreground", "direction": "image_to_text"},
    ],
)
def test_other_rows_of_table_2(changes: dict[str, Any], tiny_detector: Build, make_batch: MakeBatch) -> None:
    detector = tiny_detector(region_norm="unit", objectness=True)
    objective = HybridObjective(detector, replace(CONFIG, **changes)).train()
    for supervision in ("image_text", "detection"):
        batch = _batch(make_batch, supervision)
        _assert_equal(_in_parts(objective, batch, part_size=2), _whole(objective, objective(batch)))


def test_every_image_is_a_negative_of_every_caption(tiny_detector: Build, make_batch: MakeBatch) -> None:
    detector = tiny_detector(region_norm="unit")
    objective = HybridObjective(detector, CONFIG).train()
    batch = _batch(make_batch, "image_text")

    whole = _in_parts(objective, batch, part_size=1)[1]
    apart = [_in_parts(objective, part, part_size=1)[1] for part in batch.split(4)]

    name = "detector.head.output.embed.weight"
    gradients = [whole[name], apart[0][name], apart[1][name]]
    assert all(gradient is not None for gradient in gradients)
    one, first, second = (gradient for gradient in gradients if gradient is not None)
    # Two losses of four pairs each are another thing than one of eight.
    assert float((one - (first + second) / 2).norm()) > 0.05 * float(one.norm())


def test_bfloat16_in_parts(tiny_detector: Build, make_batch: MakeBatch) -> None:
    objective = HybridObjective(tiny_detector(region_norm="unit"), CONFIG).train()
    batch = _batch(make_batch, "detection")
    with torch.autocast("cpu", torch.bfloat16):
        losses = objective(batch)

    found = Accumulation(objective, part_size=2, precision="bf16", seed=SEED).backward(batch)

    torch.testing.assert_close(found, {name: loss.detach() for name, loss in losses.items()}, rtol=1e-2, atol=1e-3)
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in objective.parameters())


def test_parts_equal_the_whole_on_two_ranks(tiny_config: ModelConfig, make_batch: MakeBatch, tmp_path: Path) -> None:
    config = replace(tiny_config, text_training="trained", region_norm="unit")
    batches = {}
    for name, supervision in (("a", "detection"), ("b", "image_text"), ("c", "grounding"), ("d", "detection")):
        whole = _batch(make_batch, supervision)
        batches[name] = whole.split(4)
    # One rank without any box.
    batches["d"][1] = replace(batches["d"][1], boxes_xyxy=[torch.zeros(0, 4)] * 4, labels=[torch.zeros(0).long()] * 4)
    torch.save((config, CONFIG, batches), tmp_path / "batches.pt")
    run_ranks(SCRIPT, tmp_path, world_size=2)
    results = [torch.load(tmp_path / f"{number}.pt") for number in range(2)]

    for found, synthetic in results:
        assert list(found) == ["a", "b", "c", "d"]
        for in_parts, whole in found.values():
            _assert_equal(in_parts, whole)
        assert synthetic[0].tolist() == [0.5, 1.0]  # reached on one rank
        assert synthetic[1].tolist() == [1.5, 1.5]
        assert synthetic[2] is None  # reached on none
    for name in batches:
        for key, gradient in results[0][0][name][0][1].items():
            other = results[1][0][name][0][1][key]
            assert (gradient is None) == (other is None)
            assert gradient is None or torch.equal(gradient, other)
