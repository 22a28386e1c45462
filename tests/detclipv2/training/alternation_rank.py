"""One of the processes of test_alternation_ranks.py: a whole training, of which it writes down what each step was."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from detclipv2.build import build_detector
from detclipv2.data.loader import Stream
from detclipv2.data.order import Segment
from detclipv2.losses.hybrid import HybridObjective
from detclipv2.structures import Batch, float_pixels
from detclipv2.training.checkpoint import TrainState
from detclipv2.training.loop import Training, train
from detclipv2.training.metrics import SkippedStep

SLOW_RANK, SPOILED_RANK = 1, 2
SPOILED = range(40, 43)  # detection batches of that rank


@dataclass(frozen=True, kw_only=True)
class UnevenStream:
    """A stream that makes one rank wait now and then, and gives another an image that no loss is finite for."""

    stream: Stream

    @property
    def shards(self) -> Any:
        return self.stream.shards

    def batches(self, history: Sequence[Segment], done: int) -> Iterator[Batch]:
        spoils = dist.get_rank() == SPOILED_RANK and self.stream.supervision == "detection"
        for number, batch in enumerate(self.stream.batches(history, done), start=done):
            if dist.get_rank() == SLOW_RANK and number % 10 == 0:
                time.sleep(0.05)
            yield replace(batch, pixels=float_pixels(batch.pixels) * 1e38) if spoils and number in SPOILED else batch


@dataclass
class Diary:
    """What the loop said."""

    types: list[str] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    saved: list[int] = field(default_factory=list)
    keys: dict[int, list[str]] = field(default_factory=dict)
    state: TrainState | None = None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.types += sorted({name.split("/")[1] for name in metrics if name.startswith("loss/")})

    def skipped_step(self, step: int, skipped: SkippedStep) -> None:
        self.skipped.append(step)


class Hooks:
    """A diary; the first rank asks for a checkpoint once."""

    def __init__(self) -> None:
        self.diary = Diary()
        self.log = self.diary.log
        self.skipped = self.diary.skipped_step

    def save(self, step: int, state: Callable[[], TrainState]) -> None:
        self.diary.saved.append(step)
        self.diary.state = state()

    def wants_checkpoint(self, step: int) -> bool:
        asked = torch.tensor(int(dist.get_rank() == 0 and step == 123))
        dist.all_reduce(asked)
        return bool(asked)


def main(folder: Path, rank: int, world_size: int) -> None:
    """Write ``rank.pt``: the diary, and the weights at the end."""
    model, config, shards, vocabulary = torch.load(folder / "training.pt", weights_only=False)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    torch.manual_seed(0)
    objective = HybridObjective(build_detector(model), config.loss)
    streams: Any = {
        name: UnevenStream(
            stream=Stream(
                supervision=name,
                shards=shards[name],
                config=settings,
                vocabulary=vocabulary,
                seed=config.seed,
                rank=rank,
                world_size=world_size,
            )
        )
        for name, settings in config.supervisions().items()
    }
    hooks = Hooks()
    training = Training(
        objective=objective,
        wrapped=DistributedDataParallel(objective, find_unused_parameters=True),
        streams=streams,
        config=config,
        device=torch.device("cpu"),
    )
    train(training, hooks)
    assert hooks.diary.state is not None
    found = {name: getattr(hooks.diary, name) for name in ("types", "skipped", "saved")}
    torch.save(found | {"weights": hooks.diary.state.model}, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
