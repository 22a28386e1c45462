"""Swin's features equal those of transformers' SwinBackbone with the same weights.

As timm builds it for images of any size, Swin differs from it by 0.5 where windows are padded (timm shifts before it pads),
and by 0.9 in the last stage (timm's windows do not shift there). Backbone fixes both.
"""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import SwinBackbone, SwinConfig

from detclipv2.models.backbone import Backbone

# timm's names of a block's modules, and theirs. timm keeps queries, keys and values in one matrix.
BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def _our_weights(theirs: dict[str, Tensor], depths: list[int]) -> dict[str, Tensor]:
    """A ``Backbone``'s state from that of a ``SwinBackbone``; every one of their weights that a feature needs is used."""
    ours = {}

    def move(ours_name: str, their_name: str, *kinds: str) -> None:
        for kind in kinds:
            ours[f"{ours_name}.{kind}"] = theirs.pop(f"{their_name}.{kind}")

    move("model.patch_embed.proj", "swin.embeddings.patch_embeddings.projection", "weight", "bias")
    move("model.patch_embed.norm", "swin.embeddings.norm", "weight", "bias")
    for stage, depth in enumerate(depths):
        if stage:  # timm merges patches at the beginning of a stage, they at the end of the one before
            merging = f"swin.encoder.layers.{stage - 1}.downsample"
            move(f"model.layers_{stage}.downsample.norm", f"{merging}.norm", "weight", "bias")
            move(f"model.layers_{stage}.downsample.reduction", f"{merging}.reduction", "weight")
            move(f"norms.{stage - 1}", f"hidden_states_norms.stage{stage + 1}", "weight", "bias")
        for block in range(depth):
            here, there = f"model.layers_{stage}.blocks.{block}", f"swin.encoder.layers.{stage}.blocks.{block}"
            for our_name, their_name in BLOCK.items():
                move(f"{here}.{our_name}", f"{there}.{their_name}", "weight", "bias")
            for kind in ("weight", "bias"):
                parts = [theirs.pop(f"{there}.attention.{part}_proj.{kind}") for part in "qkv"]
                ours[f"{here}.attn.qkv.{kind}"] = torch.cat(parts)
            table = theirs.pop(f"{there}.attention.relative_position_bias.relative_position_bias_table")
            ours[f"{here}.attn.relative_position_bias_table"] = table
    assert set(theirs) <= {"swin.layernorm.weight", "swin.layernorm.bias"}, "the norm after the last stage, unused"
    return ours


TINY = {"depths": [2, 2, 6, 2], "embed_dim": 96, "num_heads": [3, 6, 12, 24], "window_size": 7, "image_size": 224}
LARGE = {"depths": [2, 2, 18, 2], "embed_dim": 192, "num_heads": [6, 12, 24, 48], "window_size": 12, "image_size": 384}


def _compare(name: str, shape: dict[str, Any], size_hw: tuple[int, int]) -> None:
    torch.manual_seed(0)
    theirs = SwinBackbone(SwinConfig(**shape, out_features=["stage2", "stage3", "stage4"])).eval()
    for (
        parameter
    ) in theirs.parameters():  # norms and tables too: the ones and zeros that they start from would hide them
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.05 if parameter.ndim > 1 else 0.1)
    ours = Backbone(name, drop_path=0.2).eval()
    ours.load_state_dict(_our_weights(theirs.state_dict(), shape["depths"]))
    pixels = torch.randn(1, 3, *size_hw)

    with torch.no_grad():
        wanted, found = theirs(pixels).feature_maps, ours(pixels)

    for one, other in zip(found, wanted, strict=True):
        assert float(other.std()) > 0.5
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


# Pre-training's size; padded windows in every stage; maps smaller than a window; higher than wide.
@pytest.mark.parametrize("size_hw", [(224, 224), (224, 320), (96, 160), (288, 128)])
def test_swin_t_gives_the_features_of_transformers(size_hw: tuple[int, int]) -> None:
    _compare("swin_tiny_patch4_window7_224", TINY, size_hw)


@pytest.mark.slow
def test_swin_l_gives_the_features_of_transformers() -> None:
    _compare("swin_large_patch4_window12_384", LARGE, (224, 416))
