"""Anchors, assignment, coder and box losses equal those of mmdetection 3.3 (golden/mmdet.safetensors, by make_golden.py)."""

import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from detclipv2.boxes.atss import Assignment, assign, centerness_target
from detclipv2.boxes.coder import decode, encode
from detclipv2.losses.alignment import alignment_loss
from detclipv2.losses.box import box_loss, centerness_loss
from detclipv2.models.anchors import make_anchors, valid_anchors

HERE = Path(__file__).parent
STRIDES = [8, 16, 32, 64, 128]
CANVASES = {
    "square": ((320, 320), (320, 320)),
    "full": ((800, 1344), (800, 1333)),
    "odd": ((416, 608), (389, 500)),
    "tiny": ((96, 64), (65, 33)),
}


@pytest.fixture(scope="module", params=["stored", "live"])
def golden(request: pytest.FixtureRequest) -> dict[str, Tensor]:
    """The stored values; and, where mmdetection is installed, its values for other random inputs."""
    if request.param == "stored":
        return load_file(HERE / "golden" / "mmdet.safetensors")
    pytest.importorskip("mmdet", reason="pip install -e '.[parity]'")
    return runpy.run_path(str(HERE / "make_golden.py"))["make_golden"](1)


def _anchors(canvas_hw: tuple[int, int]) -> tuple[Tensor, list[int]]:
    sizes = [(-(-canvas_hw[0] // stride), -(-canvas_hw[1] // stride)) for stride in STRIDES]
    anchors = make_anchors(sizes, STRIDES, scale=8.0, device=torch.device("cpu"))
    return anchors, [height * width for height, width in sizes]


@pytest.mark.parametrize("name", CANVASES)
def test_anchors_and_which_of_them_are_valid(golden: dict[str, Tensor], name: str) -> None:
    canvas_hw, image_hw = CANVASES[name]
    anchors, _ = _anchors(canvas_hw)

    if name != "full":
        assert torch.equal(anchors, golden[f"{name}.anchors"].float())
    assert torch.equal(valid_anchors(anchors, [image_hw])[0], golden[f"{name}.valid"])


@pytest.mark.parametrize("name", CANVASES)
def test_assignment_and_its_targets(golden: dict[str, Tensor], name: str) -> None:
    boxes, valid = golden[f"{name}.boxes"], golden[f"{name}.valid"]
    anchors, num_anchors = _anchors(CANVASES[name][0])

    found = assign(boxes, anchors, num_anchors=num_anchors, valid=valid)

    wanted = golden[f"{name}.assigned"].long()
    assert found.anchors.tolist() == (wanted >= 0).nonzero().squeeze(1).tolist()
    assert found.boxes.tolist() == wanted[wanted >= 0].tolist()
    picked = boxes[found.boxes]
    torch.testing.assert_close(centerness_target(anchors[found.anchors], picked), golden[f"{name}.centerness"])
    torch.testing.assert_close(encode(picked, anchors[found.anchors]), golden[f"{name}.deltas"], rtol=1e-5, atol=1e-5)


def test_decoding(golden: dict[str, Tensor]) -> None:
    decoded = decode(golden["coder.deltas"], golden["coder.anchors"])

    torch.testing.assert_close(decoded, golden["coder.decoded"], rtol=1e-5, atol=1e-3)
    widths = decoded[0, 2] - decoded[0, 0], decoded[0, 3] - decoded[0, 1]  # both clamped
    assert float(widths[0]) > 1e3 and float(widths[1]) < 10


def test_giou_loss(golden: dict[str, Tensor]) -> None:
    boxes, targets, weight = golden["coder.decoded"], golden["giou.targets"], golden["giou.weight"]

    def loss(rows: slice, weights: Tensor, total: float) -> Tensor:
        return box_loss(boxes[rows], targets[rows], centerness=weights, centerness_sum=torch.tensor(total))

    each = torch.stack([loss(slice(row, row + 1), torch.ones(1), 1.0) for row in range(len(boxes))])
    torch.testing.assert_close(each, golden["giou.losses"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(2.0 * loss(slice(None), weight, 7.0), golden["giou.loss"], rtol=1e-5, atol=0)


def test_focal_loss(golden: dict[str, Tensor]) -> None:
    """torchvision's, which the alignment loss is built of, against mmdetection's."""
    logits, labels = golden["focal.logits"], golden["focal.labels"]
    targets = torch.nn.functional.one_hot(labels, logits.shape[1] + 1)[:, :-1].float()
    losses = sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=2.0)

    torch.testing.assert_close(losses, golden["focal.losses"], rtol=1e-5, atol=1e-6)
    counted = (golden["giou.weight"] > 0.5).float()[:, None]
    torch.testing.assert_close((losses * counted).sum() / 7, golden["focal.loss"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["boxed", "half_boxed", "boxless"])
def test_losses_of_a_batch(golden: dict[str, Tensor], name: str) -> None:
    given = {key.removeprefix(f"{name}."): value for key, value in golden.items() if key.startswith(f"{name}.")}
    anchors, num_anchors = _anchors((96, 64))
    valid = valid_anchors(anchors, [(int(height), int(width)) for height, width in given["sizes"]])
    found: list[Assignment] = [
        assign(given[f"boxes{image}"], anchors, num_anchors=num_anchors, valid=valid[image]) for image in range(2)
    ]
    images = torch.cat([torch.full_like(one.anchors, image) for image, one in enumerate(found)])
    indices = torch.cat([one.anchors for one in found])
    boxes = torch.cat([given[f"boxes{image}"][one.boxes] for image, one in enumerate(found)])
    labels = torch.cat([given[f"labels{image}"][one.boxes] for image, one in enumerate(found)])
    num_positives = torch.tensor(float(len(indices)))
    # mmdetection counts an image without positives as one positive in what it divides by; the method counts positives.
    num_theirs = torch.tensor(float(sum(max(1, len(one.anchors)) for one in found)))
    ratio = num_positives.clamp(min=1.0) / num_theirs

    alignment = alignment_loss(
        given["embeddings"],
        given["texts"],
        given["bias"],
        image_index=images,
        anchor_index=indices,
        concept_index=labels,
        valid=valid,
        num_positives=num_positives,
    )
    centerness = centerness_target(anchors[indices], boxes)
    box = box_loss(
        decode(given["deltas"][images, indices], anchors[indices]),
        boxes,
        centerness=centerness,
        centerness_sum=centerness.sum(),
    )
    center = centerness_loss(given["centerness"][images, indices], centerness, num_positives=num_positives)

    assert [len(one.anchors) > 0 for one in found] == [len(given[f"boxes{image}"]) > 0 for image in range(2)]
    torch.testing.assert_close(alignment * ratio, given["loss_cls"], rtol=1e-5, atol=0)
    torch.testing.assert_close(2.0 * box, given["loss_bbox"], rtol=1e-5, atol=0)
    torch.testing.assert_close(center * ratio, given["loss_centerness"], rtol=1e-5, atol=0)
