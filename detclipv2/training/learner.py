"""Training step: gradients, clipping, AdamW, the average of the weights."""

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from detclipv2.config import TrainConfig
from detclipv2.data.order import Segment
from detclipv2.distributed import mean_over_ranks, rank
from detclipv2.losses.hybrid import HybridObjective
from detclipv2.structures import Batch
from detclipv2.training.accumulation import Accumulation, autocast, seed_torch, weighted
from detclipv2.training.checkpoint import TrainState, load_trained_state, trained_state
from detclipv2.training.metrics import DeviceTimer, StepRecord
from detclipv2.training.optim import WeightAverage, build_optimizer, guarded_step, set_learning_rates


class Learner:
    """What a step changes: the weights, the optimizer's moments, the average of the weights.

    ``wrapped`` is the objective itself, or DistributedDataParallel around it. Without ``resume`` the training begins.

    Raises:
        ValueError: the saved state is of another model.
    """

    def __init__(
        self,
        objective: HybridObjective,
        wrapped: nn.Module,
        *,
        config: TrainConfig,
        device: torch.device,
        resume: TrainState | None,
    ) -> None:
        self.objective = objective
        self.wrapped = wrapped.train()
        self.config = config
        self.device = device
        self.optimizer = build_optimizer(objective, config.optim)
        self.parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        if resume is not None:
            load_trained_state(objective, resume.model)
            self.optimizer.load_state_dict(resume.optimizer)
        decay = config.optim.ema_decay
        self.average = None if decay is None else WeightAverage(trained_state(objective), decay=decay)
        if self.average is not None and resume is not None and resume.ema is not None:
            self.average.load_state_dict(resume.ema)

    def step(self, step: int, batch: Batch, *, rate: float, timer: DeviceTimer, wait_s: float) -> StepRecord:
        """Launch one step on this rank's batch; ``timer`` was started before the batch was asked for."""
        self.optimizer.zero_grad(set_to_none=True)
        losses = self._backward(step, batch.to(self.device))
        total = torch.stack(list(losses.values())).sum()
        norm = clip_grad_norm_(self.parameters, self.config.optim.clip_grad_norm)
        # The gradient is already that of all ranks; a loss can be infinite and leave none.
        is_finite = norm.isfinite() & mean_over_ranks(total).isfinite()
        rates = set_learning_rates(self.optimizer, rate)
        guarded_step(self.optimizer, is_finite)
        if self.average is not None:
            self.average.update(step, is_finite)
        return StepRecord(
            step=step,
            supervision=batch.supervision,
            keys=batch.keys,
            losses=losses,
            norm=norm,
            is_finite=is_finite,
            learning_rates=rates,
            wait_s=wait_s,
            timer=timer.stop(),
        )

    def _backward(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """Gradients of the mean of all ranks' losses; returns the losses of this rank, without a graph."""
        config = self.config
        seed = (config.seed, step, rank())
        settings = config.supervisions()[batch.supervision]
        if len(batch.keys) > settings.batch_size:
            accumulation = Accumulation(
                self.objective,
                part_size=settings.batch_size,
                precision=config.precision,
                seed=seed,
                weight=settings.weight,
            )
            return accumulation.backward(batch)
        seed_torch(*seed)
        with autocast(self.device, config.precision):
            losses: dict[str, Tensor] = weighted(self.wrapped(batch), settings.weight)
        torch.stack(list(losses.values())).sum().backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def state(self, step: int, segments: list[Segment]) -> TrainState:
        """All that is needed to go on after a step."""
        return TrainState(
            step=step,
            model=trained_state(self.objective),
            optimizer=self.optimizer.state_dict(),
            ema=None if self.average is None else self.average.state_dict(),
            segments=segments,
        )
