"""The training loop: one supervision type a step, the same on every rank."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from detclipv2.config import Supervision, TrainConfig
from detclipv2.data.alternation import alternation
from detclipv2.data.loader import Stream
from detclipv2.distributed import world_size
from detclipv2.losses.hybrid import HybridObjective
from detclipv2.training.checkpoint import TrainState
from detclipv2.training.optim import build_optimizer, build_schedule


class TrainHooks(Protocol):
    """The loop's only door to the outside. Every rank calls both at the same steps."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of a finished step (counted from 1)."""
        ...

    def save(self, step: int, state: TrainState) -> None:
        """Keep the state after a finished step."""
        ...


@dataclass(frozen=True, kw_only=True)
class Training:
    """A model in training: the objective, what wraps it for several ranks, and the streams that feed it."""

    objective: HybridObjective
    wrapped: nn.Module  # the objective itself, or DistributedDataParallel around it
    streams: Mapping[Supervision, Stream]
    config: TrainConfig
    device: torch.device


def schedule_of(training: Training) -> list[Supervision]:
    """The supervision type of each step of a training."""
    return alternation(
        {name: sum(shard.num_samples for shard in stream.shards) for name, stream in training.streams.items()},
        {name: stream.config.batch_size * world_size() for name, stream in training.streams.items()},
        num_steps=training.config.num_steps,
        seed=training.config.seed,
        image_text_after=training.config.image_text_after,
    )


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict less the parameters that are not trained: those come with the configuration."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def load_trained_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load what ``trained_state`` gave into a model of the same configuration.

    Raises:
        ValueError: a trained weight is missing, or there is one that the model does not have.
    """
    wanted = trained_state(model).keys()
    if wanted != state.keys():
        odd = sorted(wanted ^ state.keys())
        raise ValueError(
            f"the checkpoint is of another model: {len(odd)} weights differ, first {odd[0]!r}; use another name"
        )
    model.load_state_dict(state, strict=False)


def train(training: Training, hooks: TrainHooks, *, resume: TrainState | None = None) -> None:
    """Train to ``config.num_steps``, from the beginning or from a saved state.

    Raises:
        FloatingPointError: a loss or a gradient is not finite; the message names the step and the batch's keys.
    """
    config, objective = training.config, training.objective
    torch.manual_seed(config.seed)
    optimizer = build_optimizer(objective, config.optim)
    learning_rates = build_schedule(optimizer, config.optim, num_steps=config.num_steps)
    done = 0
    if resume is not None:
        load_trained_state(objective, resume.model)
        optimizer.load_state_dict(resume.optimizer)
        learning_rates.load_state_dict(resume.schedule)
        torch.set_rng_state(resume.rng)
        done = resume.step
    types = schedule_of(training)
    batches = {name: stream.batches(done=types[:done].count(name)) for name, stream in training.streams.items()}
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    training.wrapped.train()
    for step in range(done + 1, config.num_steps + 1):
        started = time.perf_counter()
        batch = next(batches[types[step - 1]]).to(training.device)
        loaded = time.perf_counter()
        with torch.autocast(training.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            losses = training.wrapped(batch)
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            raise FloatingPointError(f"step {step}: losses {losses} on {batch.supervision} batch {batch.keys}")
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = clip_grad_norm_(trained, config.optim.clip_grad_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"step {step}: gradient norm {norm} on {batch.supervision} batch {batch.keys}")
        optimizer.step()
        rate = float(max(learning_rates.get_last_lr()))
        learning_rates.step()
        elapsed = time.perf_counter() - started
        metrics = {f"loss/{batch.supervision}/{name}": float(value) for name, value in losses.items()}
        metrics |= {
            "grad_norm": float(norm),
            "learning_rate": rate,
            "step_s": elapsed,
            "data_wait_share": (loaded - started) / elapsed,
            f"images_per_s/{batch.supervision}": len(batch.keys) * world_size() / elapsed,
        }
        hooks.log(step, metrics)
        if step % config.checkpoint_every == 0 or step == config.num_steps:
            hooks.save(
                step,
                TrainState(
                    step=step,
                    model=trained_state(objective),
                    optimizer=optimizer.state_dict(),
                    schedule=learning_rates.state_dict(),
                    rng=torch.get_rng_state(),
                ),
            )
