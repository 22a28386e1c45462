import math
from typing import Any

import pytest
import torch
from torch import Tensor

from detclipv2.models.head import INITIAL_SCALE, Head

LEVELS = [(8, 8), (4, 4), (2, 2), (1, 1), (1, 1)]
NUM_ANCHORS = 64 + 16 + 4 + 1 + 1


def _head(**changes: Any) -> Head:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "channels": 16,
        "num_convs": 2,
        "norm_groups": 4,
        "embed_dim": 6,
        "num_levels": 5,
        "deformable": True,
    }
    return Head(**settings | changes)


def _pyramid(batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, 16, height, width, generator=generator) for height, width in LEVELS]


def _gradient_norms(head: Head, loss: Tensor) -> dict[str, float]:
    head.zero_grad(set_to_none=True)
    loss.backward()
    return {name: 0.0 if p.grad is None else float(p.grad.norm()) for name, p in head.named_parameters()}


@pytest.mark.parametrize("deformable", [True, False])
def test_shapes(deformable: bool) -> None:
    maps = _head(deformable=deformable)(_pyramid())

    assert maps.embeddings.shape == (2, NUM_ANCHORS, 6)
    assert maps.box_deltas.shape == (2, NUM_ANCHORS, 4)
    assert maps.centerness.shape == (2, NUM_ANCHORS)
    assert maps.objectness is None


def test_objectness_is_read_off_the_regression_tower() -> None:
    head = _head(has_objectness=True)
    objectness = head(_pyramid()).objectness
    assert objectness is not None
    assert head.output.objectness is not None

    wanted = head.output.objectness(head.regression_tower(_pyramid()[1])).flatten(1)
    torch.testing.assert_close(objectness[:, 64:80], wanted)


def test_anchors_run_row_by_row_from_the_finest_level() -> None:
    head = _head(deformable=False)
    torch.nn.init.zeros_(head.output.scales)
    with torch.no_grad():
        head.output.scales[1] = 1.0
    deltas = head(_pyramid()).box_deltas

    assert (deltas[:, 64:80] != 0).all()
    assert (deltas[:, :64] == 0).all()
    assert (deltas[:, 80:] == 0).all()
    wanted = head.output.box(head.regression_tower(_pyramid()[1]))[0, :, 2, 3]
    torch.testing.assert_close(deltas[0, 64 + 2 * 4 + 3], wanted)


def test_the_embedding_reaches_the_regression_tower_only_through_the_deformable_offsets() -> None:
    head = _head()
    norms = _gradient_norms(head, head(_pyramid()).embeddings.square().sum())
    tower = [norm for name, norm in norms.items() if name.startswith("regression_tower.")]
    assert tower
    assert all(norm > 0 for norm in tower)
    assert norms["deformable.guide.weight"] > 0

    plain = _head(deformable=False)
    norms = _gradient_norms(plain, plain(_pyramid()).embeddings.square().sum())
    assert all(norm == 0 for name, norm in norms.items() if name.startswith("regression_tower."))
    assert norms["classification_tower.0.0.weight"] > 0


def test_the_embedding_says_nothing_to_the_box_and_centerness_predictors() -> None:
    head = _head()
    norms = _gradient_norms(head, head(_pyramid()).embeddings.square().sum())

    untouched = ("output.box.", "output.centerness.", "output.scales")
    assert all((norm == 0) == name.startswith((*untouched, "logit_bias")) for name, norm in norms.items())


def test_every_logit_is_improbable_at_first() -> None:
    head = _head(embed_dim=32)
    texts = torch.nn.functional.normalize(torch.randn(20, 32, generator=torch.Generator().manual_seed(2)), dim=-1)

    with torch.no_grad():
        logits = head(_pyramid()).embeddings @ texts.T + head.logit_bias

    assert float(head.logit_bias) == pytest.approx(-math.log(99))
    assert float(logits.sigmoid().max()) < 0.015
    assert float(logits.sigmoid().min()) > 0.0075


def test_unit_regions_share_one_learnt_length() -> None:
    head = _head(region_norm="unit")
    embeddings = head(_pyramid()).embeddings

    torch.testing.assert_close(embeddings.norm(dim=-1), torch.full((2, NUM_ANCHORS), INITIAL_SCALE))
    norms = _gradient_norms(head, (embeddings * torch.arange(6.0)).sum())
    assert norms["logit_scale"] > 0
    assert all(math.isfinite(norm) for norm in norms.values())
    assert _head(region_norm="raw").logit_scale is None


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    head = _head()
    both, alone = head(_pyramid()), head([level[1:] for level in _pyramid()])

    for name in ("embeddings", "box_deltas", "centerness"):
        torch.testing.assert_close(getattr(both, name)[1:], getattr(alone, name), rtol=1e-4, atol=1e-6)
