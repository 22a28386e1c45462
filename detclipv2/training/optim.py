"""AdamW with parameter groups, linear warm-up and cosine decay (Table 9 of arXiv:2304.04514)."""

import math

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from detclipv2.config import OptimConfig

# Parts of the names that timm, open_clip and transformers give to their tables of positions, whatever their shape.
POSITION_TABLES = ("relative_position", "positional_embedding", "position_embeddings", "pos_embed")


def build_optimizer(model: nn.Module, config: OptimConfig) -> AdamW:
    """AdamW over the parameters that are trained.

    Backbone and text encoder have learning rates of their own. Vectors (biases, norms, scales) and tables of positions have no
    weight decay: Swin's relative position biases, and the positional embeddings of either transformer.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        factor = 1.0
        if "backbone." in name:
            factor = config.backbone_learning_rate_factor
        elif "text_encoder.transformer." in name:
            factor = config.text_learning_rate_factor
        is_table = any(part in name for part in POSITION_TABLES)
        decay = config.weight_decay if parameter.ndim > 1 and not is_table else 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    return AdamW(
        [
            {"params": parameters, "lr": config.learning_rate * factor, "weight_decay": decay}
            for (factor, decay), parameters in groups.items()
        ],
        fused=True,
    )


def build_schedule(optimizer: AdamW, config: OptimConfig, *, num_steps: int) -> LambdaLR:
    """Linear warm-up over ``warmup_steps`` (at most a tenth of the run), then cosine to zero at ``num_steps``."""
    warmup = max(1, min(config.warmup_steps, num_steps // 10))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))

    return LambdaLR(optimizer, factor)
