"""Golden values from mmdetection 3.3's own anchors, ATSS assigner, box coder and losses. Run by hand:

    pip install -e '.[parity]'
    python tests/parity/make_golden.py

Nothing here calls mmcv's compiled operators, which mmcv-lite lacks; empty classes stand in for those that mmdetection imports.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden" / "mmdet.safetensors"
STRIDES = [8, 16, 32, 64, 128]
# Height and width of the padded batch and of the image on it.
CANVASES = {
    "square": ((320, 320), (320, 320)),
    "full": ((800, 1344), (800, 1333)),
    "odd": ((416, 608), (389, 500)),
    "tiny": ((96, 64), (65, 33)),
}
NUM_CLASSES, EMBED_DIM = 5, 4


class _NoOperators(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports ``mmcv.ops`` and what is in it as empty classes."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        is_ops = name == "mmcv.ops" or name.startswith("mmcv.ops.")
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if is_ops else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        class Operators(ModuleType):
            def __getattr__(self, name: str) -> type:
                if name.startswith("__"):
                    raise AttributeError(name)
                return type(name, (), {})

        return Operators(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def atss_head() -> Any:
    """mmdetection's ATSSHead as its configs/atss has it."""
    if not any(isinstance(finder, _NoOperators) for finder in sys.meta_path):
        sys.meta_path.insert(0, _NoOperators())
    from mmdet.models.dense_heads import ATSSHead
    from mmengine.config import ConfigDict

    return ATSSHead(
        num_classes=NUM_CLASSES,
        in_channels=32,
        feat_channels=32,
        stacked_convs=1,
        anchor_generator={
            "type": "AnchorGenerator",
            "ratios": [1.0],
            "octave_base_scale": 8,
            "scales_per_octave": 1,
            "strides": STRIDES,
        },
        bbox_coder={"type": "DeltaXYWHBBoxCoder", "target_stds": [0.1, 0.1, 0.2, 0.2]},
        loss_cls={"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25, "loss_weight": 1.0},
        loss_bbox={"type": "GIoULoss", "loss_weight": 2.0},
        loss_centerness={"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
        train_cfg=ConfigDict(assigner={"type": "ATSSAssigner", "topk": 9}, allowed_border=-1, pos_weight=-1),
    )


def level_sizes(canvas_hw: Sequence[int]) -> list[tuple[int, int]]:
    """Height and width in cells of each level of a padded batch."""
    return [(-(-canvas_hw[0] // stride), -(-canvas_hw[1] // stride)) for stride in STRIDES]


def image_meta(image_hw: tuple[int, int]) -> dict[str, Any]:
    """What mmdetection's preprocessor says of an image; ``pad_shape`` is its own rule."""
    from mmdet.models.data_preprocessors import DetDataPreprocessor

    (pad_shape,) = DetDataPreprocessor(pad_size_divisor=32)._get_pad_shape({"inputs": [torch.empty(3, *image_hw)]})
    return {"img_shape": image_hw, "pad_shape": pad_shape}


def random_boxes(count: int, image_hw: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Boxes [count, 4] (xyxy) of 2 px to the whole image; of every four one has sides on the image's border."""
    size = torch.tensor([image_hw[1], image_hw[0]], dtype=torch.float32)
    sides = 2 * (size / 2) ** torch.rand(count, 2, generator=generator)
    corners = torch.rand(count, 2, generator=generator) * (size - sides)
    boxes = torch.cat([corners, corners + sides], dim=1)
    boxes[::4, 0] = 0
    boxes[::8, 3] = size[1]
    boxes[1] = torch.cat([torch.zeros(2), size])
    boxes[2] = boxes[3] + torch.tensor([1.0, 0.5, 2.0, -0.5])  # nearly the same
    return boxes


def _assignment(head: Any, name: str, generator: torch.Generator) -> dict[str, Tensor]:
    from mmengine.structures import InstanceData

    canvas_hw, image_hw = CANVASES[name]
    anchors, flags = head.get_anchors(level_sizes(canvas_hw), [image_meta(image_hw)], device="cpu")
    num_valid = [int(level.sum()) for level in flags[0]]
    all_anchors, valid = torch.cat(anchors[0]), torch.cat(flags[0])
    boxes = random_boxes(24, image_hw, generator)
    gt = InstanceData(bboxes=boxes, labels=torch.zeros(len(boxes), dtype=torch.long))
    result = head.assigner.assign(InstanceData(priors=all_anchors[valid]), num_valid, gt)
    assigned = torch.full((len(valid),), -1)
    assigned[valid] = result.gt_inds - 1
    positive = assigned >= 0
    picked = boxes[assigned[positive]]
    golden = {
        "boxes": boxes,
        "valid": valid,
        "assigned": assigned.to(torch.int16),
        "centerness": head.centerness_target(all_anchors[positive], picked),
        "deltas": head.bbox_coder.encode(all_anchors[positive], picked),
    }
    if name != "full":  # whole numbers, which int16 holds
        golden["anchors"] = all_anchors.to(torch.int16)
    return {f"{name}.{key}": value for key, value in golden.items()}


def _single_losses(head: Any, generator: torch.Generator) -> dict[str, Tensor]:
    deltas = torch.randn(40, 4, generator=generator) * torch.tensor([5.0, 5.0, 3.0, 3.0])
    deltas[:3] = torch.tensor([[0.0, 0.0, 300.0, -300.0], [50.0, -50.0, 21.0, -21.0], [0.0, 0.0, 0.0, 0.0]])
    anchors = random_boxes(40, (320, 320), generator)
    decoded = head.bbox_coder.decode(anchors, deltas)
    targets = random_boxes(40, (320, 320), generator)
    targets[:4] = decoded[:4]
    targets[4:8] = decoded[4:8] + 400  # apart
    weight = torch.rand(40, generator=generator)
    logits, labels = 4 * torch.randn(40, NUM_CLASSES, generator=generator), torch.arange(40) % (NUM_CLASSES + 1)
    return {
        "coder.deltas": deltas,
        "coder.anchors": anchors,
        "coder.decoded": decoded,
        "giou.targets": targets,
        "giou.weight": weight,
        "giou.losses": head.loss_bbox(decoded, targets, reduction_override="none") / head.loss_bbox.loss_weight,
        "giou.loss": head.loss_bbox(decoded, targets, weight=weight, avg_factor=7.0),
        "focal.logits": logits,
        "focal.labels": labels,  # the last one is the background
        "focal.losses": head.loss_cls(logits, labels, reduction_override="none"),
        "focal.loss": head.loss_cls(logits, labels, weight=(weight > 0.5).float(), avg_factor=7.0),
    }


def _head_losses(head: Any, name: str, nums_boxes: list[int], generator: torch.Generator) -> dict[str, Tensor]:
    """All losses of a batch of two images, the second one smaller, from given outputs of the head."""
    from mmengine.structures import InstanceData

    sizes = level_sizes((96, 64))
    num_anchors = [height * width for height, width in sizes]
    metas = [image_meta((96, 64)), image_meta((65, 33))]
    shape = (2, sum(num_anchors))
    embeddings = torch.randn(*shape, EMBED_DIM, generator=generator)
    texts = torch.nn.functional.normalize(torch.randn(NUM_CLASSES, EMBED_DIM, generator=generator), dim=-1)
    deltas, centerness = torch.randn(*shape, 4, generator=generator), torch.randn(*shape, 1, generator=generator)
    bias = torch.tensor(-1.5)
    images = [
        InstanceData(
            bboxes=random_boxes(8, meta["img_shape"], generator)[:count],
            labels=torch.randint(NUM_CLASSES, (count,), generator=generator),
        )
        for meta, count in zip(metas, nums_boxes, strict=True)
    ]

    def maps(values: Tensor) -> list[Tensor]:
        levels = values.split(num_anchors, dim=1)
        return [level.transpose(1, 2).unflatten(2, size) for level, size in zip(levels, sizes, strict=True)]

    losses = head.loss_by_feat(maps(embeddings @ texts.T + bias), maps(deltas), maps(centerness), images, metas)
    golden = {
        "embeddings": embeddings,
        "texts": texts,
        "bias": bias,
        "deltas": deltas,
        "centerness": centerness.squeeze(-1),
        "sizes": torch.tensor([meta["img_shape"] for meta in metas]),
        **{f"boxes{index}": image.bboxes for index, image in enumerate(images)},
        **{f"labels{index}": image.labels for index, image in enumerate(images)},
        **{key: torch.stack(list(value)).sum() for key, value in losses.items()},
    }
    return {f"{name}.{key}": value for key, value in golden.items()}


def make_golden(seed: int) -> dict[str, Tensor]:
    """Inputs drawn from ``seed`` and what mmdetection makes of them, by name."""
    generator = torch.Generator().manual_seed(seed)
    head = atss_head()
    golden = _single_losses(head, generator)
    for name in CANVASES:
        golden |= _assignment(head, name, generator)
    golden |= _head_losses(head, "boxed", [8, 5], generator)
    golden |= _head_losses(head, "half_boxed", [8, 0], generator)
    golden |= _head_losses(head, "boxless", [0, 0], generator)
    return {name: value.detach().contiguous() for name, value in golden.items()}


if __name__ == "__main__":
    from safetensors.torch import save_file

    GOLDEN.parent.mkdir(exist_ok=True)
    save_file(make_golden(0), GOLDEN)
    print(f"{GOLDEN}: {GOLDEN.stat().st_size} bytes")
