"""AdamW with parameter groups (Table 9 of arXiv:2304.04514), and an average of the weights over the steps."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from detclipv2.config import OptimConfig

# Parts of the names that timm, open_clip and transformers give to their tables of positions, whatever their shape.
POSITION_TABLES = ("relative_position", "positional_embedding", "position_embeddings", "pos_embed")


def build_optimizer(model: nn.Module, config: OptimConfig) -> AdamW:
    """AdamW over the parameters that are trained, in groups whose ``name`` is the part of the model.

    Backbone and text encoder have learning rates of their own: ``rate_factor`` of a group. Vectors (biases, norms, scales) and
    tables of positions have no weight decay: Swin's relative position biases, and the positional embeddings of either
    transformer.
    """
    factors = {"backbone": config.backbone_learning_rate_factor, "text_encoder": config.text_learning_rate_factor}
    groups: dict[tuple[str, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "head"
        if "backbone." in name:
            part = "backbone"
        elif "text_encoder.transformer." in name:
            part = "text_encoder"
        is_table = any(part in name for part in POSITION_TABLES)
        decay = config.weight_decay if parameter.ndim > 1 and not is_table else 0.0
        groups.setdefault((part, decay), []).append(parameter)
    return AdamW(
        [
            {
                "params": parameters,
                "lr": config.learning_rate * factors.get(part, 1.0),
                "weight_decay": decay,
                "name": part,
                "rate_factor": factors.get(part, 1.0),
            }
            for (part, decay), parameters in groups.items()
        ],
        fused=True,
    )


def set_learning_rates(optimizer: AdamW, rate: float) -> dict[str, float]:
    """Give every group its share of a rate; returns the rates by the groups' names."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"]
    return {group["name"]: group["lr"] for group in optimizer.param_groups}


def guarded_step(optimizer: AdamW, is_finite: Tensor) -> None:
    """A step that changes neither parameters nor moments where ``is_finite``, a bool [] on their device, is false.

    The decision stays on the device: it is what the fused optimizers offer to ``torch.amp.GradScaler``.
    """
    flag: Any = optimizer
    flag.found_inf = is_finite.logical_not().float()
    optimizer.step()


class WeightAverage:
    """An exponential moving average of a model's trained weights.

    The first steps weigh more than ``decay`` says, ``(1 + step) / (10 + step)`` being the most that is kept, so that the random
    weights of the beginning are soon forgotten. No number of updates has to be saved: the decay follows from the step. The
    average begins with the given state dict, whose tensors must stay those of the model.
    """

    def __init__(self, weights: Mapping[str, Tensor], *, decay: float) -> None:
        self.decay = decay
        self._weights = {name: value.detach() for name, value in weights.items() if value.is_floating_point()}
        self._average = {name: value.clone() for name, value in self._weights.items()}

    @torch.no_grad()
    def update(self, step: int, is_finite: Tensor) -> None:
        """Take in the weights after a step, unless ``is_finite``, a bool [] on their device, is false."""
        share = (1 - min(self.decay, (1 + step) / (10 + step))) * is_finite.float()
        for name, average in self._average.items():
            average.lerp_(self._weights[name], share.to(average.dtype))

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by name."""
        return dict(self._average)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state_dict`` gave for a model of the same configuration."""
        for name, value in self._average.items():
            value.copy_(state[name])
