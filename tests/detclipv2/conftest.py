"""A tiny detector with a tiny text encoder, batches for it, and WebDataset shards."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoTokenizer

from detclipv2.build import build_detector
from detclipv2.config import ModelConfig, Supervision
from detclipv2.data.tar_shards import Shard
from detclipv2.losses.hybrid import HybridObjective
from detclipv2.models.detector import DetCLIPv2
from detclipv2.models.text_encoder import SentenceEncoder, packaged_minilm
from detclipv2.structures import Batch


@pytest.fixture(scope="session")
def minilm() -> SentenceEncoder:
    """The packaged sentence encoder; tests that change it put it back."""
    torch.manual_seed(0)
    return SentenceEncoder(packaged_minilm(), embed_dim=64).eval()


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A one-layer encoder without weights and without dropout, with the packaged tokenizer."""
    folder = tmp_path_factory.mktemp("text_encoder")
    AutoTokenizer.from_pretrained(packaged_minilm()).save_pretrained(folder)
    AutoConfig.from_pretrained(
        packaged_minilm(),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_config(text_folder: Path) -> ModelConfig:
    return ModelConfig(
        backbone="lcnet_035",
        backbone_weights="random",
        drop_path=0.0,
        channels=16,
        num_tower_convs=1,
        norm_groups=4,
        embed_dim=16,
        anchor_scale=4.0,
        text_weights=str(text_folder),
    )


@pytest.fixture
def tiny_detector(tiny_config: ModelConfig) -> Callable[..., DetCLIPv2]:
    """The same random detector whenever it is called with the same changes to ``tiny_config``."""

    def build(**changes: Any) -> DetCLIPv2:
        torch.manual_seed(0)
        return build_detector(replace(tiny_config, **changes))

    return build


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """A batch of random 64 px images with the given concepts, and boxes labelled in turn."""

    def make(
        supervision: Supervision, concepts: list[list[str]], boxes: Sequence[Sequence[Sequence[float]]] | None = None
    ) -> Batch:
        boxes = boxes if boxes is not None else [[] for _ in concepts]
        return Batch(
            supervision=supervision,
            keys=[f"image-{index}" for index in range(len(concepts))],
            pixels=torch.rand(len(concepts), 3, 64, 64, generator=torch.Generator().manual_seed(0)),
            image_sizes_hw=[(64, 64)] * len(concepts),
            boxes_xyxy=[torch.tensor(list(image), dtype=torch.float32).reshape(-1, 4) for image in boxes],
            labels=[torch.arange(len(image)) for image in boxes],
            concepts=concepts,
        )

    return make


@pytest.fixture
def gradients() -> Callable[[HybridObjective, Batch], dict[str, torch.Tensor | None]]:
    """Gradients by parameter name of the summed losses of a batch."""

    def compute(objective: HybridObjective, batch: Batch) -> dict[str, torch.Tensor | None]:
        objective.zero_grad(set_to_none=True)
        torch.stack(list(objective(batch).values())).sum().backward()
        return {name: parameter.grad for name, parameter in objective.detector.named_parameters()}

    return compute


@pytest.fixture
def write_shard(tmp_path: Path) -> Callable[..., Shard]:
    """A tar of ``<key>.jpg`` and ``<key>.json``; every sample is the annotation given, on an image with a white box."""

    def write(name: str, samples: dict[str, dict[str, Any]], *, size: tuple[int, int] = (64, 64)) -> Shard:
        path = tmp_path / f"{name}.tar"
        with tarfile.open(path, "w") as tar:
            for key, annotation in samples.items():
                sized = {"width": size[0], "height": size[1]} | annotation
                image = Image.new("RGB", size, (40, 80, 120))
                for box in annotation["boxes_xyxy"]:
                    x1, y1, x2, y2 = (int(value) for value in box)
                    image.paste((255, 255, 255), (x1, y1, x2, y2))
                jpeg = io.BytesIO()
                image.save(jpeg, "JPEG", quality=95)
                for suffix, content in (("jpg", jpeg.getvalue()), ("json", json.dumps(sized).encode())):
                    member = tarfile.TarInfo(f"{key}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        return Shard(url=str(path), num_samples=len(samples))

    return write


@pytest.fixture
def annotation() -> Callable[..., dict[str, Any]]:
    """A detection annotation of one box, less what is given."""

    def make(**changes: Any) -> dict[str, Any]:
        return {
            "supervision": "detection",
            "boxes_xyxy": [[8.0, 8.0, 40.0, 40.0]],
            "labels": [0],
            "concepts": ["dog"],
            "caption": None,
        } | changes

    return make
