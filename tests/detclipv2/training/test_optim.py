from collections.abc import Callable

import pytest
import timm
import torch
from open_clip.transformer import TextTransformer
from torch import nn

from detclipv2.config import OptimConfig
from detclipv2.models.backbone import Backbone
from detclipv2.models.detector import DetCLIPv2
from detclipv2.training.optim import WeightAverage, build_optimizer, guarded_step, set_learning_rates

CONFIG = OptimConfig(
    learning_rate=1e-3,
    backbone_learning_rate_factor=0.5,
    text_learning_rate_factor=0.1,
    weight_decay=0.05,
    warmup_steps=4,
)


def test_every_trained_parameter_has_its_learning_rate_and_decay(tiny_detector: Callable[..., DetCLIPv2]) -> None:
    detector = tiny_detector(text_training="trained", frozen_modules=("conv_stem",))
    optimizer = build_optimizer(detector, CONFIG)
    settings = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }

    for name, parameter in detector.named_parameters():
        if name.startswith("backbone.model.conv_stem."):
            assert id(parameter) not in settings
            continue
        rate = 1e-3
        if name.startswith("backbone."):
            rate = 5e-4
        elif name.startswith("text_encoder.transformer."):
            rate = 1e-4
        without = (".bias", ".scales", "position_embeddings.weight")
        decay = 0.0 if name.endswith(without) or parameter.ndim < 2 else 0.05
        assert settings[id(parameter)] == (pytest.approx(rate), decay), name
    assert settings[id(detector.head.logit_bias)] == (1e-3, 0.0)
    assert settings[id(detector.text_encoder.projection.weight)] == (1e-3, 0.05)
    assert optimizer.defaults["betas"] == (0.9, 0.999)


def test_tables_of_positions_do_not_decay_and_token_embeddings_do() -> None:
    modules = {
        "backbone": Backbone("swin_tiny_patch4_window7_224"),
        "vit": timm.create_model("vit_tiny_patch16_224", num_classes=0),
        "text": TextTransformer(context_length=16, width=32, heads=2, layers=1),
    }
    optimizer = build_optimizer(nn.ModuleDict(modules), CONFIG)
    decays = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    found = {f"{key}.{name}": decays[id(p)] for key, module in modules.items() for name, p in module.named_parameters()}

    tables = [name for name in found if name.endswith("relative_position_bias_table")]
    assert len(tables) == 12  # one a block, all of two dimensions
    for name in [*tables, "vit.pos_embed", "text.positional_embedding", "backbone.norms.0.weight"]:
        assert found[name] == 0.0, name
    for name in ["text.token_embedding.weight", "backbone.model.layers_0.blocks.0.attn.qkv.weight"]:
        assert found[name] == 0.05, name


def test_a_frozen_model_has_nothing_to_train() -> None:
    with pytest.raises(ValueError, match="empty parameter list"):
        build_optimizer(nn.Linear(2, 2).requires_grad_(False), CONFIG)


def test_decay_shrinks_matrices_alone() -> None:
    layer = nn.Linear(2, 2)
    before = [parameter.detach().clone() for parameter in layer.parameters()]
    optimizer = build_optimizer(layer, CONFIG)
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)

    optimizer.step()

    torch.testing.assert_close(layer.weight.detach(), before[0] * (1 - 1e-3 * 0.05))
    assert torch.equal(layer.bias, before[1])


def test_rates_of_the_groups(tiny_detector: Callable[..., DetCLIPv2]) -> None:
    optimizer = build_optimizer(tiny_detector(text_training="trained"), CONFIG)

    found = set_learning_rates(optimizer, 2e-4)

    assert found == pytest.approx({"backbone": 1e-4, "text_encoder": 2e-5, "head": 2e-4})
    assert all(group["lr"] == found[group["name"]] for group in optimizer.param_groups)


def test_a_guarded_step_that_is_not_finite_leaves_all_as_it_was() -> None:
    layer = nn.Linear(2, 2)
    optimizer = build_optimizer(layer, CONFIG)
    average = WeightAverage(layer.state_dict(), decay=0.9)
    kept = []
    for step, (gradient, is_finite) in enumerate([(1.0, True), (torch.nan, False), (1.0, True)], start=1):
        for parameter in layer.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        guarded_step(optimizer, torch.tensor(is_finite))
        average.update(step, torch.tensor(is_finite))
        moments = [value for state in optimizer.state.values() for value in state.values()]
        everything = [*layer.parameters(), *average.state_dict().values(), *moments]
        kept.append([tensor.detach().clone() for tensor in everything])

    assert all(torch.equal(one, other) for one, other in zip(kept[0], kept[1], strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(kept[1][:4], kept[2][:4], strict=True))
