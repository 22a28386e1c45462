"""One of the processes of test_accumulation.py: gradients of its batches in parts, and of the whole ones through DDP."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from detclipv2.build import build_detector
from detclipv2.losses.hybrid import HybridObjective
from detclipv2.training import accumulation as accumulation_module
from detclipv2.training.accumulation import Accumulation, average_gradients


def _gradients(module: nn.Module) -> dict[str, Tensor | None]:
    return {name: None if p.grad is None else p.grad.clone() for name, p in module.named_parameters()}


def main(folder: Path, rank: int, world_size: int) -> None:
    """Write ``rank.pt``: for each batch losses and gradients, in parts and whole."""
    config, loss_config, batches = torch.load(folder / "batches.pt", weights_only=False)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    torch.manual_seed(0)
    objective = HybridObjective(build_detector(config), loss_config).train()
    wrapped = DistributedDataParallel(objective, find_unused_parameters=True)
    accumulation_module.TEXTS_AT_A_TIME = 3
    accumulation = Accumulation(objective, part_size=1, precision="fp32", seed=(0, rank))
    found = {}
    for name, of_ranks in batches.items():
        batch = of_ranks[rank]
        objective.zero_grad(set_to_none=True)
        in_parts = accumulation.backward(batch), _gradients(objective)
        objective.zero_grad(set_to_none=True)
        losses = wrapped(batch)
        torch.stack(list(losses.values())).sum().backward()
        found[name] = (in_parts, ({key: loss.detach() for key, loss in losses.items()}, _gradients(objective)))
    pair = nn.ParameterList(torch.zeros(2, dtype=dtype) for dtype in (torch.float32, torch.float64, torch.float32))
    if rank == 0:
        pair[0].grad = torch.tensor([1.0, 2.0])
    pair[1].grad = torch.full((2,), 1.0 + rank, dtype=torch.float64)
    average_gradients(pair.parameters())
    torch.save((found, [parameter.grad for parameter in pair]), folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
