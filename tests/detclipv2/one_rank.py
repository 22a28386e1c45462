"""One of the processes of test_distributed.py: its part of every batch, and what the losses and gradients are."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from detclipv2.build import build_detector
from detclipv2.config import LossConfig, ModelConfig
from detclipv2.losses.hybrid import HybridObjective
from detclipv2.structures import Batch


def build_objective(config: ModelConfig) -> HybridObjective:
    """Equal in every process."""
    torch.manual_seed(0)
    return HybridObjective(build_detector(config), LossConfig()).train()


def part_of(batch: Batch, rank: int, world_size: int) -> Batch:
    """Images of a batch that a process gets."""
    return batch.split(len(batch.keys) // world_size)[rank]


def main(folder: Path, rank: int, world_size: int) -> None:
    """Write ``rank.pt``: losses and averaged gradients of every batch in ``batches.pt``."""
    config, batches = torch.load(folder / "batches.pt", weights_only=False)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    objective = build_objective(config)
    wrapped = DistributedDataParallel(objective, find_unused_parameters=True)
    found = {}
    for name, (batch, loss_config) in batches.items():
        objective.config = loss_config
        wrapped.zero_grad(set_to_none=True)
        losses = wrapped(part_of(batch, rank, world_size))
        torch.stack(list(losses.values())).sum().backward()
        found[name] = (
            {loss: float(value.detach()) for loss, value in losses.items()},
            {key: parameter.grad for key, parameter in objective.named_parameters()},
        )
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
