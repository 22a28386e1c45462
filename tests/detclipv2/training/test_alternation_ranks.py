from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from detclipv2.config import LossConfig, ModelConfig, OptimConfig, SupervisionConfig, TrainConfig
from detclipv2.data.loader import Shard
from tests.detclipv2.ranks import run_ranks

SCRIPT = Path(__file__).with_name("alternation_rank.py")
WORLD_SIZE, NUM_STEPS = 3, 500


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ranks_whose_data_and_speed_differ_never_wait_for_ever(
    tiny_config: ModelConfig,
    write_shard: Callable[..., Shard],
    annotation: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    model = replace(tiny_config, channels=8, norm_groups=2, embed_dim=8)
    boxed = annotation(boxes_xyxy=[[4.0, 4.0, 28.0, 28.0]])
    pair = annotation(supervision="image_text", boxes_xyxy=[], labels=[], concepts=["owl"], caption="an owl")
    of_type = {"detection": boxed, "grounding": boxed | {"supervision": "grounding"}, "image_text": pair}
    counts = {"detection": (1, 17, 0, 5), "grounding": (2,), "image_text": (0, 40, 3)}  # samples of each shard
    shards = {
        name: [
            write_shard(
                f"{name}-{number}", {f"{name}-{number}-{n}": of_type[name] for n in range(count)}, size=(32, 32)
            )
            for number, count in enumerate(sizes)
        ]
        for name, sizes in counts.items()
    }
    config = TrainConfig(
        num_steps=NUM_STEPS,
        detection=SupervisionConfig(batch_size=1, image_size=32, num_concepts=3),
        grounding=SupervisionConfig(batch_size=1, image_size=32, num_concepts=3),
        image_text=SupervisionConfig(batch_size=1, global_batch_size=6, image_size=32),  # in parts
        loss=LossConfig(num_proposals=5),
        optim=OptimConfig(learning_rate=1e-3),
        checkpoint_every=200,
    )
    # One sample of a shard of its own.
    shards["grounding"].append(write_shard("grounding-1", {"grounding-1-0": of_type["grounding"]}, size=(32, 32)))
    torch.save((model, config, shards, ["cat", "dog", "kite", "owl"]), tmp_path / "training.pt")
    run_ranks(SCRIPT, tmp_path, world_size=WORLD_SIZE, timeout_s=500)
    first, *others = (torch.load(tmp_path / f"{number}.pt") for number in range(WORLD_SIZE))

    assert len(first["types"]) == NUM_STEPS
    # An epoch has 8 steps of detection, 1 of grounding, 8 of pairs.
    assert Counter(first["types"][: 17 * 10]) == {"detection": 80, "grounding": 10, "image_text": 80}
    assert first["saved"] == [123, 200, 400, 500]
    assert len(first["skipped"]) == 3  # one rank's images
    for other in others:
        for name in ("types", "saved", "skipped"):
            assert other[name] == first[name]
        assert all(torch.equal(value, first["weights"][name]) for name, value in other["weights"].items())
    assert all(bool(value.isfinite().all()) for value in first["weights"].values())
